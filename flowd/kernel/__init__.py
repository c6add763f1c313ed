"""The data plane: all that touches every flow or every row, behind one small seam.

Nothing outside of this package looks inside a frame, a page or a table. `interface` says what a
kernel offers; `reference` is the plain-Python one and the specification. Pure: no sockets, no
files, no clock.
"""
