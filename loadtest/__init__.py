"""Load on a real flowd: locust users, and the benchmark behind `make bench`.

Nothing in flowd imports this. Everything here talks to flowd from outside, over HTTP, and reads
what the operating system accounts to its processes.
"""
