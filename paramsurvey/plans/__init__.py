"""What a run would do, before it does anything expensive: a `Plan`.

Three kinds of numbers, never mixed up
--------------------------------------
*Exact ones and bounds* are arithmetic (`Count.least`, `Count.most`): they follow from the number of psets and from what
the stages are. They hold as long as no pset fails and, where the best rows are kept, every row has what is compared.
A number that nothing follows for is unknown, not guessed.

*Estimates* (`Count.about`, `Eta`) need a sample: some rows, evenly spread over the first source, that run through all
stages. What goes row by row is scaled by how many rows came of one; the rows of a join by those of the table that was
sampled; groups by the power of the number of rows with which they grew from the first half of the sample to the whole
(1: every row brings new groups; 0: all were there from the beginning). Of a function of whole tables nothing is known
from some of its rows. An estimate is as good as the sample: one row in a thousand that takes an hour is not in it.

*What was measured* (`Seen`, `Memory`) is told of the sample alone.

Nothing here starts a process but the run of a sample.

==============  ======================================================================================================
`plan`          what a plan consists of, and the `Plan` itself, which shows itself
`making`        making one: what may be asked for, and the order in which things are found out
`counts`        how many rows come out of every stage
`psets`         equal psets, and those that cannot be sent
`calls`         how often workers are called, and how many bytes that takes
`sample`        the run of some rows, and what it has shown
`memory`        how much memory it took
`eta`           how long a run would take
`findings`      what is worth knowing of all that
`words`         amounts as text
==============  ======================================================================================================
"""
