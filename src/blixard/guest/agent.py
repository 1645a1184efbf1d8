"""The first process of a Blixard guest: sets it up, keeps its services, answers the host.

Standard library only, one file. It mounts what a system needs, configures the network from the kernel
command line (``blixard.ip=`` ``blixard.gw=`` ``blixard.mtu=`` ``blixard.host=``), starts the services
of ``/etc/blixard/services.json``, reaps every orphan, and serves the channel on the virtio port
``org.blixard.agent``. The host speaks first; while it is away the agent sleeps.
"""

import contextlib
import errno
import fcntl
import glob
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time

MAGIC = b"BLX1"
HEADER = struct.Struct(">4sBII")
PAYLOAD_BYTES_MAX = 64 * 1024
HELLO, STATUS, EXEC, STDIN, STDOUT, STDERR, EXIT, RESIZE, SHUTDOWN, ERROR, CLOSE = range(1, 12)
VERSION = 1
PORT_NAME = "org.blixard.agent"
CONFIG = "/etc/blixard/services.json"
AWAY_S = 0.25
TICK_S = 1.0
STOP_S = 8.0
CHUNK = 16 * 1024
SESSIONS_MAX = 32
STARTED_S = 0.3
BACKOFF_MAX_S = 30.0
MOUNTS = (
    ("proc", "/proc", "proc"),
    ("sysfs", "/sys", "sysfs"),
    ("devtmpfs", "/dev", "devtmpfs"),
    ("devpts", "/dev/pts", "devpts"),
    ("tmpfs", "/dev/shm", "tmpfs"),
    ("tmpfs", "/run", "tmpfs"),
    ("tmpfs", "/tmp", "tmpfs"),
)


def frame(kind, stream, payload=b""):
    """Return one frame of the channel."""
    return HEADER.pack(MAGIC, kind, stream, len(payload)) + payload


class Decoder:
    """Bytes in, frames out; the same rules as the host's decoder."""

    def __init__(self):
        self.buffer = b""

    def feed(self, data):
        """Return completed frames as (type, stream, payload)."""
        self.buffer += data
        frames = []
        while True:
            at = self.buffer.find(MAGIC)
            if at > 0:
                self.buffer = self.buffer[at:]
            elif at < 0 and len(self.buffer) >= len(MAGIC):
                self.buffer = self.buffer[1 - len(MAGIC) :]
            if len(self.buffer) < HEADER.size:
                return frames
            _, kind, stream, length = HEADER.unpack_from(self.buffer)
            if length > PAYLOAD_BYTES_MAX or not HELLO <= kind <= CLOSE:
                self.buffer = self.buffer[1:]
                continue
            end = HEADER.size + length
            if len(self.buffer) < end:
                return frames
            frames.append((kind, stream, self.buffer[HEADER.size : end]))
            self.buffer = self.buffer[end:]


class Service:
    """One process that is kept running."""

    def __init__(self, spec):
        self.name = spec["name"]
        self.command = list(spec["command"])
        self.env = dict(spec.get("env") or {})
        self.restart = bool(spec.get("restart", True))
        self.process = None
        self.started = 0.0
        self.next_start = 0.0
        self.failures = 0
        self.state = "waiting"

    def step(self, now):
        """Start it when it is due; notice that it stays up."""
        if self.process is None and self.state != "ended" and now >= self.next_start:
            self.start(now)
        elif self.process is not None and self.state == "starting":
            if now - self.started >= STARTED_S:
                self.state = "running"

    def start(self, now):
        """Start the process with its output on the console."""
        self.started = now
        try:
            self.process = subprocess.Popen(
                self.command,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", **self.env},
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
            self.state = "starting"
        except OSError as error:
            say(f"service {self.name} cannot start: {error}")
            self.failed(now)

    def ended(self, code, now):
        """It exited: start it again later, unless it may rest."""
        say(f"service {self.name} ended with code {code}")
        self.process = None
        if not self.restart:
            self.state = "ended"
            return
        if now - self.started > 60:
            self.failures = 0
        self.failed(now)

    def failed(self, now):
        """Wait longer each time."""
        self.failures += 1
        self.state = "waiting"
        self.next_start = now + min(BACKOFF_MAX_S, 0.5 * 2 ** min(self.failures, 10))


class Session:
    """One exec: a process with pipes or a terminal, joined to a stream of the channel."""

    def __init__(self, stream, command, tty):
        self.stream = stream
        self.tty = tty
        self.readers = {}
        self.code = None
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "TERM": "xterm-256color" if tty else "dumb",
        }
        if tty:
            master, slave = pty.openpty()
            self.process = subprocess.Popen(
                command,
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env=environment,
                cwd="/root",
                start_new_session=True,
                preexec_fn=take_terminal,
            )
            os.close(slave)
            self.stdin = master
            self.readers[master] = STDOUT
        else:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                cwd="/root",
                start_new_session=True,
                bufsize=0,
            )
            self.stdin = self.process.stdin.fileno()
            self.readers[self.process.stdout.fileno()] = STDOUT
            self.readers[self.process.stderr.fileno()] = STDERR

    def write(self, data):
        """Give input; an empty piece is its end."""
        if self.stdin is None:
            return
        with contextlib.suppress(OSError):
            if data:
                os.write(self.stdin, data)
                return
        if not self.tty:
            self.process.stdin.close()
            self.stdin = None

    def resize(self, payload):
        """Set the terminal's size from ``COLSxROWS``."""
        if self.tty:
            with contextlib.suppress(ValueError, OSError):
                columns, rows = (int(part) for part in payload.decode().split("x"))
                fcntl.ioctl(self.stdin, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def close(self):
        """Release descriptors and kill what is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.tty:
            with contextlib.suppress(OSError):
                os.close(self.stdin)
        else:
            for file in (self.process.stdin, self.process.stdout, self.process.stderr):
                with contextlib.suppress(OSError):
                    file.close()


def take_terminal():
    """Make the inherited terminal the controlling one of the new session."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def say(text):
    """Write a line to the console."""
    with contextlib.suppress(OSError):
        os.write(1, f"blixard-agent: {text}\n".encode())


class Agent:
    """The loop: services, sessions, the port."""

    def __init__(self, services, port_path):
        self.services = services
        self.port_path = port_path
        self.port = None
        self.decoder = Decoder()
        self.out = b""
        self.sessions = {}
        self.poll = select.poll()
        self.began = time.monotonic()
        self.stopping = False
        self.wake_read, self.wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.poll.register(self.wake_read, select.POLLIN)

    def run(self):
        """Serve until the host asks to stop."""
        while not self.stopping:
            now = time.monotonic()
            for service in self.services:
                service.step(now)
            self.open_port()
            for descriptor, events in self.poll.poll(self.timeout(now) * 1000):
                self.ready(descriptor, events)
            self.reap()
        self.stop()

    def timeout(self, now):
        """Return how long nothing needs doing."""
        waits = [s.next_start - now for s in self.services if s.state == "waiting"]
        waits += [STARTED_S for s in self.services if s.state == "starting"]
        return max(0.01, min([TICK_S, *waits]))

    def open_port(self):
        """Open the port; the driver may come later than the agent."""
        if self.port is None and self.port_path is not None:
            with contextlib.suppress(OSError):
                self.port = os.open(self.port_path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                self.poll.register(self.port, select.POLLIN)

    def ready(self, descriptor, events):
        """Handle one descriptor."""
        if descriptor == self.wake_read:
            with contextlib.suppress(BlockingIOError):
                os.read(descriptor, 4096)
        elif descriptor == self.port:
            self.port_ready(events)
        else:
            self.session_ready(descriptor)

    def port_ready(self, events):
        """Read what the host says; while it is away, sleep instead of spinning."""
        data = b""
        if events & select.POLLIN:
            try:
                data = os.read(self.port, CHUNK)
            except BlockingIOError:
                return
            except OSError:
                data = b""
        if not data:
            if events & (select.POLLHUP | select.POLLIN):
                self.host_left()
            self.flush()
            return
        for kind, stream, payload in self.decoder.feed(data):
            self.handle(kind, stream, payload)
        self.flush()

    def host_left(self):
        """Forget half frames and running sessions; look again in a moment."""
        self.decoder = Decoder()
        self.out = b""
        for session in list(self.sessions.values()):
            self.end_session(session)
        time.sleep(AWAY_S)

    def send(self, kind, stream, payload=b""):
        """Queue a frame and write what fits."""
        self.out += frame(kind, stream, payload)
        self.flush()

    def flush(self):
        """Write; wait in the poll for what does not fit."""
        while self.out and self.port is not None:
            try:
                sent = os.write(self.port, self.out)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.EIO, errno.ENODEV):
                    say(f"port: {error}")
                self.out = b""
                break
            self.out = self.out[sent:]
        if self.port is not None:
            self.poll.modify(self.port, select.POLLIN | (select.POLLOUT if self.out else 0))

    def handle(self, kind, stream, payload):
        """Answer one frame."""
        if kind == HELLO:
            self.send(HELLO, stream, json.dumps({"version": VERSION}).encode())
        elif kind == STATUS:
            self.send(STATUS, stream, json.dumps(self.status()).encode())
        elif kind == EXEC:
            self.exec(stream, payload)
        elif kind == SHUTDOWN:
            self.stopping = True
        elif stream in self.sessions:
            session = self.sessions[stream]
            if kind == STDIN:
                session.write(payload)
            elif kind == RESIZE:
                session.resize(payload)
            elif kind == CLOSE:
                self.end_session(session)

    def status(self):
        """Return readiness, services and figures."""
        states = {service.name: service.state for service in self.services}
        return {
            "ready": all(s in ("running", "ended") for s in states.values()),
            "uptime_s": time.monotonic() - self.began,
            "services": states,
            "metrics": metrics(),
        }

    def exec(self, stream, payload):
        """Start a session."""
        try:
            request = json.loads(payload)
            if len(self.sessions) >= SESSIONS_MAX:
                raise OSError(errno.EAGAIN, f"{SESSIONS_MAX} sessions are open")
            session = Session(stream, [str(a) for a in request["command"]], bool(request["tty"]))
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            self.send(ERROR, stream, str(error).encode()[:1000])
            return
        self.sessions[stream] = session
        for descriptor in session.readers:
            self.poll.register(descriptor, select.POLLIN)

    def session_ready(self, descriptor):
        """Pass a session's output on; the port's own backpressure bounds what is held."""
        for session in list(self.sessions.values()):
            kind = session.readers.get(descriptor)
            if kind is None:
                continue
            if len(self.out) > 16 * CHUNK:
                time.sleep(0.005)
                self.flush()
                return
            try:
                data = os.read(descriptor, CHUNK)
            except OSError:
                data = b""
            if data:
                self.send(kind, session.stream, data)
            else:
                self.poll.unregister(descriptor)
                del session.readers[descriptor]
                self.finish(session)
            return

    def finish(self, session):
        """Send the exit code once the process ended and its output was read."""
        if session.code is not None and not session.readers:
            self.send(EXIT, session.stream, str(session.code).encode())
            self.end_session(session)

    def end_session(self, session):
        """Forget a session."""
        for descriptor in session.readers:
            self.poll.unregister(descriptor)
        session.readers = {}
        session.close()
        self.sessions.pop(session.stream, None)

    def reap(self):
        """Wait for every child that ended: ours and the orphans that every first process gets."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            for service in self.services:
                if service.process is not None and service.process.pid == pid:
                    service.process.returncode = code
                    service.ended(code, time.monotonic())
            for session in list(self.sessions.values()):
                if session.process.pid == pid:
                    session.process.returncode = code
                    session.code = code if code >= 0 else 128 - code
                    if session.tty:
                        self.drain(session)
                    self.finish(session)

    def drain(self, session):
        """Read what a terminal still holds: its end is an error, not an end of file."""
        for descriptor in list(session.readers):
            with contextlib.suppress(OSError):
                while select.select([descriptor], [], [], 0)[0]:
                    data = os.read(descriptor, CHUNK)
                    if not data:
                        break
                    self.send(STDOUT, session.stream, data)
            self.poll.unregister(descriptor)
            del session.readers[descriptor]

    def stop(self):
        """Stop the services, write everything out, switch off."""
        say("stopping")
        signal_all(signal.SIGTERM)
        until = time.monotonic() + STOP_S
        while time.monotonic() < until and any_left():
            time.sleep(0.05)
        signal_all(signal.SIGKILL)
        os.sync()
        switch_off()


def signal_all(number):
    """Signal every process but this one."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, number)


def any_left():
    """Reap; tell whether children are left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def switch_off():
    """Restart the machine: the hypervisor runs with -no-reboot and ends."""
    import ctypes

    ctypes.CDLL(None).reboot(0x01234567)


def metrics():
    """Return figures of the whole guest: seconds of CPU, bytes of memory."""
    figures = {}
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open("/proc/stat") as file:
            fields = [int(f) for f in file.readline().split()[1:9]]
        ticks = os.sysconf("SC_CLK_TCK")
        figures["cpu_busy_s"] = (sum(fields) - fields[3] - fields[4]) / ticks
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        figures["memory_total_bytes"] = int(lines["MemTotal"].split()[0]) * 1024.0
        figures["memory_available_bytes"] = int(lines["MemAvailable"].split()[0]) * 1024.0
    return figures


def mount_all():
    """Mount what is not mounted yet."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    for source, target, kind in MOUNTS:
        os.makedirs(target, exist_ok=True)
        if os.path.ismount(target):
            continue
        if libc.mount(source.encode(), target.encode(), kind.encode(), 0, None) != 0:
            say(f"mount {target}: {os.strerror(ctypes.get_errno())}")
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0")):
        with contextlib.suppress(OSError):
            os.symlink(target, f"/dev/{name}")


def command_line():
    """Return the kernel's ``blixard.KEY=VALUE`` settings."""
    with open("/proc/cmdline") as file:
        words = file.read().split()
    pairs = (word.split("=", 1) for word in words if word.startswith("blixard.") and "=" in word)
    return {key[len("blixard.") :]: value for key, value in pairs}


def interface_up(name, mtu=0):
    """Switch an interface on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        if mtu:
            fcntl.ioctl(control, 0x8922, struct.pack("16si12x", name.encode(), mtu))
        request = fcntl.ioctl(control, 0x8913, struct.pack("16s16x", name.encode()))
        flags = struct.unpack_from("H", request, 16)[0] | 0x1 | 0x40
        fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", name.encode(), flags))


def address(ip):
    """Return a sockaddr_in."""
    return struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(ip))


def configure_interface(name, ip, prefix, gateway, mtu):
    """Set address, size of packets and default route by ioctl: no tool is needed in the guest."""
    mask = socket.inet_ntoa(struct.pack(">I", (0xFFFFFFFF << (32 - prefix)) & 0xFFFFFFFF))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        padded = name.encode().ljust(16, b"\0")
        fcntl.ioctl(control, 0x8916, padded + address(ip))
        fcntl.ioctl(control, 0x891C, padded + address(mask))
        interface_up(name, mtu)
        if gateway:
            route = struct.pack(
                "Q16s16s16sHhQQhQQQH6x",
                0,
                address("0.0.0.0"),
                address(gateway),
                address("0.0.0.0"),
                0x3,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
            )
            fcntl.ioctl(control, 0x890B, route)


def set_up_network(settings):
    """Configure loopback and the first interface."""
    interface_up("lo")
    if "ip" not in settings:
        return
    ip, _, prefix = settings["ip"].partition("/")
    names = sorted(n for n in os.listdir("/sys/class/net") if n != "lo")
    if not names:
        say("no network interface")
        return
    mtu = int(settings.get("mtu", "1450"))
    configure_interface(names[0], ip, int(prefix or "24"), settings.get("gw", ""), mtu)


def find_port():
    """Return the device of the agent's port, or None."""
    for path in glob.glob("/sys/class/virtio-ports/*/name"):
        with open(path) as file:
            if file.read().strip() == PORT_NAME:
                return "/dev/" + path.split("/")[-2]
    return None


def load_services():
    """Return the services of the image; a broken file is said on the console."""
    try:
        with open(CONFIG) as file:
            return [Service(spec) for spec in json.load(file)]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        say(f"{CONFIG}: {error}")
        return []


def main():
    """Be the first process."""
    mount_all()
    settings = command_line()
    host = settings.get("host", "guest")
    socket.sethostname(host)
    with contextlib.suppress(OSError):
        with open("/etc/hostname", "w") as file:
            file.write(host + "\n")
        with open("/etc/hosts", "w") as file:
            file.write(f"127.0.0.1 localhost\n127.0.1.1 {host}\n")
    try:
        set_up_network(settings)
    except (OSError, ValueError) as error:
        say(f"network: {error}")
    agent = Agent(load_services(), find_port())
    say("ready to serve")
    agent.run()


if __name__ == "__main__":
    try:
        main()
    except BaseException as error:
        say(f"failed: {error!r}")
        time.sleep(1)
        if os.getpid() == 1:
            switch_off()
        sys.exit(1)
