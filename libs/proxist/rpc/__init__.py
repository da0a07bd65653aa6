"""Doors and peers: how services listen and how they call each other.

In: handlers (Flight, gRPC, HTTP, attach) and a `ServiceConfig`. Out: listening sockets, one error table in both
directions, bounded start and stop. Nothing here knows what a row means, and nothing here makes data durable.

    env            the flags of gRPC's C core; imported first by every program
    status         the one table: error class <-> Flight status, gRPC status, exit code
    flight_server  FlightHandler (override it) and FlightDoor (TCP and unix socket)
    flight_client  FlightPeer: typed errors, a deadline on every call
    session        the DoExchange session: many queries on one open stream
    grpc_server    GrpcDoor: reflection, health, one interceptor for errors
    grpc_client    connect(address): stubs that raise typed errors
    http           HttpDoor: /metrics /livez /readyz /health
    attach         AttachDoor: hands out descriptors over a unix socket
    attached       Attached and request_fd: hot sets of this host, mapped read-only
    service        main(...): how each service process starts, says that it is ready, and stops
    child          a process that ends with its parent
    ports          free ports, and the error where a port is not free
"""
