"""perftest's measurements over verbs: {read, write, send, atomic} x {bandwidth, latency}, between two ends.

`options` what is measured, `endpoint` one end's verbs objects, `control` what the ends tell each other over TCP, `bandwidth` and
`latency` the loops, `session` server and client, `table` how it is printed.

Imports verbs, and remote's messages. Both ends may be strangers: the server checks what a client asks for, and opens no memory
but its own buffer.
"""
