"""What asyncio offers and a simulated world must not touch: it raises, and names itself."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn


class ForbiddenError(RuntimeError):
    """Code inside the simulation reached for the real world."""


def _forbid(name: str) -> Any:
    def refuse(*_args: Any, **_keywords: Any) -> NoReturn:
        raise ForbiddenError(f"{name} is not possible inside the simulation")

    return refuse


class ClosedWorldLoop(asyncio.AbstractEventLoop):
    """An event loop without threads, sockets, child processes and signals."""

    call_soon_threadsafe = _forbid("call_soon_threadsafe")
    run_in_executor = _forbid("run_in_executor")
    set_default_executor = _forbid("set_default_executor")
    getaddrinfo = _forbid("getaddrinfo")
    getnameinfo = _forbid("getnameinfo")
    create_connection = _forbid("create_connection")
    create_server = _forbid("create_server")
    sendfile = _forbid("sendfile")
    start_tls = _forbid("start_tls")
    create_unix_connection = _forbid("create_unix_connection")
    create_unix_server = _forbid("create_unix_server")
    connect_accepted_socket = _forbid("connect_accepted_socket")
    create_datagram_endpoint = _forbid("create_datagram_endpoint")
    connect_read_pipe = _forbid("connect_read_pipe")
    connect_write_pipe = _forbid("connect_write_pipe")
    subprocess_shell = _forbid("subprocess_shell")
    subprocess_exec = _forbid("subprocess_exec")
    add_reader = _forbid("add_reader")
    remove_reader = _forbid("remove_reader")
    add_writer = _forbid("add_writer")
    remove_writer = _forbid("remove_writer")
    sock_recv = _forbid("sock_recv")
    sock_recv_into = _forbid("sock_recv_into")
    sock_recvfrom = _forbid("sock_recvfrom")
    sock_recvfrom_into = _forbid("sock_recvfrom_into")
    sock_sendall = _forbid("sock_sendall")
    sock_sendto = _forbid("sock_sendto")
    sock_connect = _forbid("sock_connect")
    sock_accept = _forbid("sock_accept")
    sock_sendfile = _forbid("sock_sendfile")
    add_signal_handler = _forbid("add_signal_handler")
    remove_signal_handler = _forbid("remove_signal_handler")
    default_exception_handler = _forbid("default_exception_handler")
    get_exception_handler = _forbid("get_exception_handler")
    get_task_factory = _forbid("get_task_factory")
    set_exception_handler = _forbid("set_exception_handler")
    set_task_factory = _forbid("set_task_factory")
