"""What a worker's code is: a print of it that changes when an answer might, and only then.

A journal serves an answer again if it was computed by the same code. That is the worker's own, and the helpers,
constants, classes, default arguments and closure values that it reaches inside the user's own code, across modules. A
library is code, too, but not the user's: only its version is noted. So is Python's.

How code is compared
--------------------
By its syntax tree, without docstrings and positions, where its source can be found. Bytecode will not do: where a line
is broken shows in it (the compiler keeps a NOP for a debugger to stop at, and does not thread jumps between lines), and
every Python has another.

The source in a file need not be what runs: somebody may have edited it since. So the source is compiled, and believed
only if one of the code objects that come out is equal to the one that runs, positions included. Otherwise, and for
scripts on standard input, where there is no source, the print is of the bytecode: without NOPs, docstrings and line
numbers, with Python's version, and as tolerant of formatting as that can be.

How it is found out what code reaches
-------------------------------------
The objects are asked, not the text: the names that the bytecode loads are looked up in the function's module as it is
now, so it makes no difference how a helper got there. A name of a module of the user's is followed along its
attributes, ``tools.optics.focus``; a module that is used otherwise is reached whole. A class is reached whole, with its
bases. A module that is imported inside a function is imported here, if it is the user's.

A global counts with the value that it has when the survey begins; that of a random number generator is its state. One
of numpy's that was not seeded, or whose seed has more than 96 bits, does not count: rows would be new in every program,
as they are if the standard library's, or an old ``RandomState``, was not seeded.

What things are called
----------------------
Only what the code says counts, and a script does not say how its file is called. So a part is known by its name inside
its module, ``function scale``; of several with one name, by the order in which they are reached. A script that was
renamed, a module that was moved, and a helper that has moved to another module have the print that they had. Where a
name stands for something that is called otherwise, ``from math import sin as f``, or that is a library's, what it
stands for is a part. Code that asks for ``__name__`` depends on it. So does what is known by the name of its module:
values of the user's own classes in psets and in ``user_kwargs``, if these are not classes of ``__main__``.

What cannot be seen
-------------------
- what a name built at run time stands for: ``getattr(thing, "sc" + "ale")``, ``importlib.import_module(name)``
- functions that arrive in psets, or in what a worker reads from files (``depends=``, ``version=`` are for those);
  those in ``user_kwargs`` are seen
- what libraries do, environment variables, other programs
- docstrings, also if the code asks for them (``__doc__``)

and, which is named in `CodePrint.not_covered`:

- C extensions of the user's own
- what ``eval``, ``exec`` and ``import_module`` find
- the state of what has none that can be compared: open files, locks, generators; random numbers without a seed
- functions whose source is not found, or is not what runs: their bytecode counts, which also changes if nothing does

Whose code it is, `paramsurvey.editions` tells, which sees to it that workers have the code that is printed here.

============  ========================================================================================================
`print`       the `CodePrint`, and `code_print`, which makes it
`walk`        the walk from a worker to all that it reaches, functions, classes and values
`values`      what is known of values that do not say by themselves what they are made of
`loads`       the names that code loads
`source`      where the source of a function is, if it is what runs
`digests`     the bytes of a syntax tree and of bytecode
`names`       what the parts are called
`owners`      whose code it is, and of which version if it is not the user's
============  ========================================================================================================
"""
