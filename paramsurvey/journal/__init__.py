"""The journal: the file that remembers finished psets, whatever ends the program.

`format` is the file to the byte, `keys` tells rows apart, `prints` tells stages apart, `file` is the file while it is
open, `ledger` is what a run asks and tells it, `lookup` finds things in a file that is only read, and `reading` and
`explaining` are for people: `open_journal` and `explain`. `repacking` makes large records of small ones.
"""
