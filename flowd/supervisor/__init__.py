"""The supervisor: spawns routers and workers, watches, restarts and drains them, speaks to systemd.

It does no request work, so that it has no reason to fail. `restarts` decides, `child_process` is
one life of one child, `keeper` strings the lives of one child together, `supervisor` keeps all of
them. Children are made by exec, never by fork alone; each exits when its control channel ends, so
that a killed supervisor leaves nobody behind.
"""
