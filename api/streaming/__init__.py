"""Token streams: server-sent events, from Redis' channels to the clients' sockets, on one thread a process."""
