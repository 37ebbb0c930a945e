"""The MPI backend: rank 0 runs the program, every rank runs worker processes.

====================  ================================================================================================
`world`               MPI itself: who is there, and whether the launcher is the right one
`channel`             frames to and from one other rank; nothing in it ever waits
`messages`            what the ranks say to each other
`constants`           the handle of a constant, as worker processes load it; imports nothing of MPI
`settings`            what ``mpi={...}`` may say; imports nothing of MPI
`seats`               which slot of which rank the next chunk goes to
`cluster`             rank 0's side of all channels, for all sessions of the program
`backend`             the `Backend`, as the engine sees it
`node`                what the other ranks do until they are told to leave
====================  ================================================================================================

Every rank drives a local pool (`backends.multiprocessing.pool`), so workers are plain processes that know nothing of
MPI: they may die, hang or be killed, and the job goes on. What a worker says is a frame on a pipe; a node sends its
bytes on as they are, and only rank 0 unpickles them.

Which thread calls MPI
----------------------
A call of MPI may need long, and two threads in it at once are slow at best. So there is one caller at a time, and none
of the calls waits: messages are looked for (`Improbe`), received and sent by requests that are tested (``Irecv``,
`Isend`), and what has not left is kept in a queue of ours. So megabytes may cross in both directions: nobody who
sends stops receiving.

- On the nodes the main thread alone calls MPI. Callbacks of the pool, from whatever thread, put frames into a queue.
- On rank 0 it is whoever holds `Cluster.reactor`: the thread that waits for a survey (`drive`), which spares a change
  of threads, else the cluster's own. This needs ``MPI_THREAD_SERIALIZED``, and is refused with less.

Waiting in MPI burns a core, so nobody waits there, and each look from time to time costs 20 us of one, for falling
asleep and waking up. Between two looks a rank sleeps in the selector of its pool, which a worker's answer ends at once:
for 200 us just after a message; 2 ms after it for a millisecond, and for longer, by and by, while there is none: a
fiftieth of the time since, up to 10 ms. While a message is on its way it is 50 us, because large ones need several
looks on both sides. A node passes an answer on at once if it is the first for a while; those that follow within 200 us
leave together. So psets of microseconds that are sent one by one do not wake rank 0, nor their own node, for each of
them.

What MPI does not promise
-------------------------
The loss of a rank ends the job; mpiexec tells the number of its process, and the guard of its workers tells the rank.
"""
