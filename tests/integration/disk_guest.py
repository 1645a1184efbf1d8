"""A guest that tells what it finds on its disk, then writes its own name there, again and again."""

from __future__ import annotations

import asyncio

import guest_lab as lab

from blixard.hypervisors.qemu.hypervisor import QemuHypervisor
from blixard.ports.volumes import DiskAttachment

# The name stands in the last sector but one of 90 MB, a counter in the sector before it: each write
# goes past the guest's own cache, as a database's does.
WRITER = r"""
/bin/busybox mkdir -p /dev /proc /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
read -r modules < /modules
/bin/busybox modprobe -a $modules
while [ ! -b /dev/vda ]; do /bin/busybox usleep 20000; done
me=unknown
read -r line < /proc/cmdline
for word in $line; do case $word in blixard.host=*) me=${word#*=};; esac; done
read -r serial < /sys/block/vda/serial
read -r size < /sys/block/vda/size
sector() { /bin/busybox dd if=/dev/vda bs=512 skip=$1 count=1 2>/dev/null; }
put() {
  printf '%-511s\n' "$2" | /bin/busybox dd of=/dev/vda bs=512 seek=$1 conv=notrunc,fsync 2>/dev/null
}
read -r found <<EOT
$(sector 184320 | /bin/busybox tr -d '\0' | /bin/busybox awk '{ print $1 }')
EOT
echo "disk $serial $size found=$found"
put 184320 "$me" && echo "wrote $me" || echo "failed $me"
number=0
while true; do
  number=$((number + 1))
  put 184319 "$number" || { echo "failed $me at $number"; /bin/busybox sleep 1; }
done
"""


async def start(
    made: QemuHypervisor, uid: str, runner: str, disk: DiskAttachment, **fields: object
) -> None:
    """Start a guest of that name with a disk, and let it run."""
    await made.start_paused(lab.plan(runner, uid, name=uid, disks=(disk,), **fields))
    await made.resume(uid)


async def seen(made: QemuHypervisor, uid: str, text: str) -> str:
    """Return the console's line with a text, once it is there."""
    while True:
        lines = made.console_tail(uid, 100)
        for line in lines:
            if text in line:
                return line
        await asyncio.sleep(0.05)
