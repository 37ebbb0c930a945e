"""A run: a pipeline being executed, from the psets that the user gives to what came of every stage.

==============  ======================================================================================================
`sources`       the tables that it begins with
`wiring`        a node for every stage, and who has to do something when rows come out of one
`whole_table`   the node of a whole-table stage, which asks and is told
`run`           the `Run` itself, which drives the loop and moves rows on
`outcome`       the tables in their final order, and the results
==============  ======================================================================================================
"""
