"""The local pool: this machine's cores, in fresh processes that may do whatever they like.

======================  =============================================================================================
`backend`               the `Backend`, as the engine sees it
`pool`                  the driver's side: who runs what, what came back, who has died
`guard`                 the process that starts the workers, tells of their deaths, and ends them with the driver
`child`                 the worker process
`messages`              what the driver and the guard say to each other
`frames`                bytes on a pipe
`slot`                  the few words of memory that a worker process shares with the driver
`constants`             what is serialised once and read by every worker process
======================  =============================================================================================
"""
