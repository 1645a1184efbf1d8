"""Bounds and times of the transport between nodes."""

from __future__ import annotations

import msgspec


class TransportConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All bounds; sizes in bytes, times in seconds.

    A dead peer is noticed after ``keepalive_s`` + ``keepalive_timeout_s``. The age limit makes
    every connection prove its certificate again, should all other checks have missed something.
    """

    message_bytes_max: int = 8 << 20
    batch_bytes_max: int = 1 << 20
    queue_messages_max: int = 4096
    queue_bytes_max: int = 32 << 20
    connect_timeout_s: float = 2.0
    open_timeout_s: float = 5.0
    backoff_first_s: float = 0.05
    backoff_max_s: float = 1.0
    keepalive_s: float = 0.5
    keepalive_timeout_s: float = 1.5
    recheck_s: float = 10.0
    connection_age_s: float = 4 * 3600.0
    connection_age_grace_s: float = 60.0
    drain_s: float = 60.0
    calls_max: int = 2048

    def common_options(self) -> list[tuple[str, int | str]]:
        """Return the gRPC options of both ends."""
        # The frame around a payload of the largest size must fit too.
        largest = self.message_bytes_max + 4096
        return [
            ("grpc.max_receive_message_length", largest),
            ("grpc.max_send_message_length", largest),
            ("grpc.keepalive_time_ms", int(self.keepalive_s * 1000)),
            ("grpc.keepalive_timeout_ms", int(self.keepalive_timeout_s * 1000)),
            # The wait for the answer to any ping, a probe of the bandwidth included; default 60 s.
            ("grpc.http2.ping_timeout_ms", int(self.keepalive_timeout_s * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
        ]

    def channel_options(self) -> list[tuple[str, int | str]]:
        """Return the options of an outgoing channel: never a proxy, never a shared connection."""
        return [
            *self.common_options(),
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", int(self.connect_timeout_s * 1000)),
            ("grpc.max_reconnect_backoff_ms", int(self.backoff_max_s * 1000)),
            ("grpc.service_config_disable_resolution", 1),
        ]

    def server_options(self) -> list[tuple[str, int | str]]:
        """Return the options of the listening end; its address is never shared with others."""
        return [
            *self.common_options(),
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 100),
            ("grpc.http2.max_ping_strikes", 0),
            ("grpc.max_connection_age_ms", int(self.connection_age_s * 1000)),
            ("grpc.max_connection_age_grace_ms", int(self.connection_age_grace_s * 1000)),
        ]
