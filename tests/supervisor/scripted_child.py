"""A child that does what a file says: `scripted_child.py DIR ROLE INDEX FD`.

DIR/ROLE-INDEX holds one of the words below and its number; without the file it serves. Each step is
appended to DIR/events as one line `NAME PID STEP`. Imports nothing of flowd, to start fast.
"""

import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

BEAT_SECONDS = 0.05


class Child:
    def __init__(self, directory, role, index, descriptor):
        self.directory = Path(directory)
        self.name = f"{role}-{index}"
        self.channel = socket.socket(fileno=int(descriptor))
        self.is_stopping = False
        self.starts = self.count_starts() + 1
        self.note("started")

    def count_starts(self):
        events = self.directory / "events"
        if not events.exists():
            return 0
        return sum(
            line.startswith(f"{self.name} ") and line.endswith(" started")
            for line in events.read_text().splitlines()
        )

    def note(self, step):
        with (self.directory / "events").open("a") as events:
            events.write(f"{self.name} {os.getpid()} {step}\n")

    def tell(self, event, detail=""):
        try:
            self.channel.send(json.dumps({"event": event, "detail": detail}).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            self.be_orphaned()

    def receive_assignment(self):
        line = b""
        while not line.endswith(b"\n"):
            part = self.channel.recv(65536)
            if not part:
                sys.exit(1)
            line += part
        return json.loads(line)

    def receive(self):
        """Give what came; nothing when the supervisor is gone, with or without our beats read."""
        try:
            return self.channel.recv(65536)
        except ConnectionResetError:
            return b""

    def stop(self, *_):
        self.is_stopping = True

    def serve(self):
        """Beat until told to stop, or until the supervisor is gone."""
        self.note("ready")
        self.tell("ready")
        while not self.is_stopping:
            self.tell("beat")
            readable, _, _ = select.select([self.channel], [], [], BEAT_SECONDS)
            if readable and not self.receive():
                self.be_orphaned()
        self.note("stopped")

    def be_orphaned(self):
        self.note("orphaned")
        sys.exit(1)

    def exit(self, status):
        self.tell("failed", "the script says so")
        sys.exit(status)

    def crash(self, times):
        """Crash so many times, then serve."""
        if self.starts <= times:
            os.kill(os.getpid(), signal.SIGKILL)
        self.serve()

    def replay(self):
        """Replay until DIR/go exists, then serve."""
        while not (self.is_stopping or (self.directory / "go").exists()):
            self.tell("progress", "replaying")
            time.sleep(BEAT_SECONDS)
        self.serve()

    def hang(self, times):
        """Hang so many times, until SIGABRT ends it; then serve."""
        if self.starts > times:
            self.serve()
        self.tell("ready")
        while True:
            signal.pause()

    def hang_hard(self, times):
        """Hang so many times, until killed; then serve."""
        signal.signal(signal.SIGABRT, lambda *_: self.note("aborted"))
        self.hang(times)

    def stubborn(self):
        """Serve, and do not stop."""
        signal.signal(signal.SIGTERM, lambda *_: self.note("told to stop"))
        self.serve()

    def babble(self, times):
        """Say what means nothing so many times; then serve."""
        if self.starts > times:
            self.serve()
        self.channel.send(b"what?\n")
        while True:
            signal.pause()


def main():
    child = Child(*sys.argv[1:5])
    signal.signal(signal.SIGTERM, child.stop)
    assignment = child.receive_assignment()
    assert f"{assignment['role']}-{assignment['index']}" == child.name
    script = child.directory / child.name
    step, *number = (script.read_text() if script.exists() else "serve").split()
    getattr(child, step)(*map(int, number))


if __name__ == "__main__":
    main()
