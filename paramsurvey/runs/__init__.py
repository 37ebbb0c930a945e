"""A run: a pipeline being executed, from the psets that the user gives to what came of every stage.

==============  ======================================================================================================
`sources`       the tables that it begins with
`run`           the `Run` itself, which drives the loop and moves rows on
==============  ======================================================================================================
"""
