"""Arrays over verbs: `serve` arrays and files, `connect` to them, and index what is there as if it were here.

* `server`   a thread that introduces clients to the device      * `client`    connections and lanes, for any number of threads
* `visitor`  what a client may say, `admission` how often        * `array`     RemoteArray
* `regions`  the served arrays on the device                     * `transfers` selections carried out, over `lanes`
* `sources`  what can be served                                  * `indexing`, `pieces`  which bytes, in how few requests
* `messages`, `descriptions`, `addresses`  what is said between them, and how it is written

Imports verbs, and host for owned memory and addresses. Promises upward: NumPy's meaning for every index or a clear error;
OSErrors whose text is one sentence; nothing a stranger sends does more than end his own connection.
"""

from __future__ import annotations

from unpinned.host.owned import empty
from unpinned.remote.array import RemoteArray
from unpinned.remote.client import Client, connect
from unpinned.remote.errors import Disconnected, ProtocolError, Refused, RemoteAccessError, RemoteError
from unpinned.remote.server import Server, serve
from unpinned.remote.sources import RawFile

__all__ = [
    "Client",
    "Disconnected",
    "ProtocolError",
    "RawFile",
    "Refused",
    "RemoteAccessError",
    "RemoteArray",
    "RemoteError",
    "Server",
    "connect",
    "empty",
    "serve",
]
