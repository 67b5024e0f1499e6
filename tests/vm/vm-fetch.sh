# Sourced by vm-run.sh: brings the kernel, its modules and the tools into the cache.
# Installs QEMU, and only where it is missing; all else is downloaded as Debian's packages and unpacked.

# The parts of the kernel's package that are kept; a module from another part needs a line here.
vm_keep=('./boot/vmlinuz-*' './lib/modules/*/modules.builtin' './lib/modules/*/modules.builtin.modinfo'
  './lib/modules/*/modules.order' './lib/modules/*/kernel/drivers/media/*' './lib/modules/*/kernel/drivers/usb/*'
  './lib/modules/*/kernel/drivers/virtio/*' './lib/modules/*/kernel/drivers/char/*'
  './lib/modules/*/kernel/drivers/i2c/*' './lib/modules/*/kernel/net/core/*' './lib/modules/*/kernel/net/9p/*'
  './lib/modules/*/kernel/drivers/block/virtio_blk.ko' './lib/modules/*/kernel/fs/*' './lib/modules/*/kernel/lib/*' './lib/modules/*/kernel/crypto/*')

vm_say() { echo "vm-fetch: $*" >&2; }

# Runs a command; where it fails, once more with fresh package lists.
vm_twice() {
  "$@" 2>/dev/null && return
  [ "$(id -u)" = 0 ] || vm_say "not root: the package lists stay as they are"
  apt-get update -qq >&2 || true
  "$@" >&2
}

vm_get() { # FOLDER PACKAGE...
  local folder=$1; shift
  mkdir -p "$folder" && (cd "$folder" && apt-get download -qq "$@")
}

vm_dependency() { # PACKAGE BEGINNING: the package that PACKAGE depends on
  apt-cache depends "$1" 2>/dev/null | sed -nE "s/.*Depends: ($2[^ ]*).*/\1/p" | head -1
}

vm_qemu() {
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends qemu-system-x86 e2fsprogs
}

vm_kernel() { # CACHE
  local cache=$1 package
  rm -rf "$cache/debs" "$cache/sys"
  mkdir -p "$cache/sys"
  package=$(vm_dependency linux-image-amd64 linux-image-)
  [ -n "$package" ] && vm_get "$cache/debs" "$package" busybox-static || return 1
  # tar fails for a pattern that matches nothing: what is needed shows when a module is put into the machine
  dpkg-deb --fsys-tarfile "$cache"/debs/linux-image-*.deb |
    tar -x -C "$cache/sys" --wildcards "${vm_keep[@]}" 2>/dev/null || true
  dpkg -x "$cache"/debs/busybox-static_*.deb "$cache/sys"
  rm -rf "$cache/debs"
  ls "$cache/sys/lib/modules" | head -1 > "$cache/kver"
  [ -s "$cache/kver" ] && "$cache/sys/bin/busybox" depmod -b "$cache/sys" "$(cat "$cache/kver")"
}

vm_tools() { # CACHE
  local cache=$1 package
  vm_get "$cache/debs" v4l-utils libv4l-0 libv4lconvert0 libjpeg62-turbo libstdc++6 || return 1
  for package in "$cache"/debs/*.deb; do dpkg -x "$package" "$cache/sys"; done
  rm -rf "$cache/debs"
}

# v4l2loopback is not in Debian's kernel: its module is built from Debian's package of its source.
vm_loopback() { # CACHE
  local cache=$1 kernel headers common kbuild build package source
  kernel=$(cat "$cache/kver")
  headers=linux-headers-$kernel
  common=$(vm_dependency "$headers" linux-headers-)
  kbuild=$(vm_dependency "$headers" linux-kbuild-)
  [ -n "$common" ] && [ -n "$kbuild" ] || return 1
  build=$cache/build
  rm -rf "$build"
  vm_get "$build" "$headers" "$common" "$kbuild" v4l2loopback-dkms || return 1
  for package in "$build"/*.deb; do dpkg -x "$package" "$build/x"; done
  # the headers name absolute places: point them at the unpacked copies
  sed -i "s|/usr/src/|$build/x/usr/src/|g; s|/usr/lib/linux-kbuild|$build/x/usr/lib/linux-kbuild|g" \
    "$build/x/usr/src/$headers/Makefile" "$build/x/usr/src/$headers/.kernelvariables"
  source=$(echo "$build"/x/usr/src/v4l2loopback-*)
  make -C "$build/x/usr/src/$headers" M="$source" modules > "$build/log" 2>&1 || { tail -20 "$build/log" >&2; return 1; }
  install -Dm644 "$source/v4l2loopback.ko" "$cache/sys/lib/modules/$kernel/extra/v4l2loopback.ko"
  "$cache/sys/bin/busybox" depmod -b "$cache/sys" "$kernel"
  rm -rf "$build"
}

vm_fetch() { # CACHE HERE DRIVER PLAYER TOOL...
  local cache=$1 here=$2 driver=$3 player=$4 tool
  shift 4
  if ! command -v qemu-system-x86_64 >/dev/null; then
    if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
      vm_say "QEMU is missing: as root on Debian, 'apt-get install --no-install-recommends qemu-system-x86'"
      return 1
    fi
    vm_twice vm_qemu || { vm_say "QEMU could not be installed"; return 1; }
  fi
  # The mark says what was kept: with another list it is brought again.
  if [ "$(cat "$cache/.kernel" 2>/dev/null)" != "${vm_keep[*]}" ]; then
    command -v apt-get >/dev/null || { vm_say "the kernel comes from Debian's packages, and there is no apt-get"; return 1; }
    vm_twice vm_kernel "$cache" || { vm_say "the kernel could not be downloaded"; return 1; }
    printf '%s' "${vm_keep[*]}" > "$cache/.kernel"
  fi
  for tool in "$@"; do
    [ "$tool" = v4l2-ctl ] || { vm_say "no tool $tool"; return 1; }
    [ -e "$cache/sys/usr/bin/v4l2-ctl" ] || vm_twice vm_tools "$cache" ||
      { vm_say "v4l2-ctl could not be downloaded"; return 1; }
  done
  if [ "$driver" = loopback ] && [ ! -e "$cache/sys/lib/modules/$(cat "$cache/kver")/extra/v4l2loopback.ko" ]; then
    vm_twice vm_loopback "$cache" || { vm_say "v4l2loopback could not be built"; return 1; }
  fi
  if [ -n "$player" ] && [ ! "$cache/$player" -nt "$here/$player.rs" ]; then
    rustc --edition 2024 -O -C target-feature=+crt-static -o "$cache/$player" "$here/$player.rs" >&2 ||
      { vm_say "$player.rs could not be built"; return 1; }
  fi
}
