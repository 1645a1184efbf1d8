#!/usr/bin/env bash
# Installs the Debian packages that Blixard's demo and tests use; prints nothing when all are there.
set -euo pipefail
packages=(
  python3 python3-venv build-essential protobuf-compiler pkg-config
  qemu-system-x86 busybox-static mmdebstrap erofs-utils cpio kmod zstd
  iproute2 iputils-ping nftables procps e2fsprogs strace
  ceph-mon ceph-osd ceph-mgr ceph-common qemu-block-extra
  etcd-server wrk
)
# A toolchain from elsewhere is used where there is one; Debian's default is too old for PyO3.
command -v cargo >/dev/null || packages+=(cargo-web rustc-web)
missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
echo "installing Debian packages: ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "not root and no sudo: install them by hand" >&2; exit 1; }
  as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
if ! "${as_root[@]}" apt-get update >"$log" 2>&1 ||
   ! "${as_root[@]}" apt-get install -y --no-install-recommends "${missing[@]}" >>"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "the packages could not be installed; the whole log: $log" >&2
  exit 1
fi
rm -f "$log"
