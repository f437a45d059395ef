"""The HCA: the RC transport as step functions over one block of words.

``regions`` says who may touch which memory; ``responder`` and ``reads`` serve the peer's requests;
``ahead`` looks for the pages of READs that wait; ``requester`` and ``responses`` send our own and judge the answers;
``parking`` keeps what waits for a page;
``completions`` fills completion queues; ``device`` strings them into the five steps of a burst: receive,
finish, transmit, finish, timers.

It imports ``paging``, ``wire`` and ``compiled`` only: no socket, thread, clock or random number.  Time is an
argument, a datagram is bytes in an arena, memory is touched by nobody here: what must be copied is written
down as DMA descriptors in the paging block and executed by the world (``host`` or ``model``).
"""
