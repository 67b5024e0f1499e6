#!/bin/bash
# Runs a program in a small virtual machine that has real V4L2 cameras: see README.md.
# Boots Debian's kernel under QEMU in software emulation, with an initramfs made on the spot; hands on
# what the program prints, and its exit code. Changes nothing outside of the cache and a folder in /tmp.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
  cat <<'END'
usage: vm-run.sh [options] SCRIPT [ARGS...]       SCRIPT is run by busybox's sh in the machine
  --driver D         vivid (default) | loopback | uvc | none
  --cams N           cameras (default 1; with uvc the script plugs in as many as it wants)
  --param "K=V .."   more parameters for that driver's module (uvc: for uvcvideo)
  --with FILE[:AS]   put FILE into the machine at AS (default /bin/NAME), with its shared libraries; repeatable.
                     `FILE:` brings the libraries only, e.g. for a large program that is run from /share
  --tool v4l2-ctl    put this tool of Debian in
  --share DIR        mount DIR read-write at /share
  --disk FILE[:LOG]  FILE is the next disk, /dev/vda first; every write and flush of it goes to LOG too, in the format of
                     the kernel's dm-log-writes; repeatable
  --pull-plug        the machine is killed as soon as the script has written "@@pull-plug" to /dev/console
  --timeout S        hard limit in seconds, boot included (default 180)
  --mem MB           memory (default 512)
  --log FILE         keep the kernel's console there
  --verbose          print the kernel's console after the run, and timings
Exit status: the script's own, 0 once the plug was pulled; 124: the limit was reached; 125: the machine could not be made, or failed.
Cache (kernel, modules, tools): $VM_CACHE, default ${XDG_CACHE_HOME:-$HOME/.cache}/v4l2-vm
END
}

fail() { echo "vm-run: $*" >&2; exit 125; }

driver=vivid cams=1 param='' share='' limit=180 mem=512 log='' verbose='' pull=''
with=() tools=() disks=()
while [ $# -gt 0 ]; do
  case $1 in
    --driver) driver=$2; shift 2;; --cams) cams=$2; shift 2;; --param) param=$2; shift 2;;
    --with) with+=("$2"); shift 2;; --tool) tools+=("$2"); shift 2;;
    --disk) disks+=("$2"); shift 2;; --pull-plug) pull=1; shift;;
    --share) share=$(cd "$2" && pwd); shift 2;; --timeout) limit=$2; shift 2;; --mem) mem=$2; shift 2;;
    --log) log=$2; shift 2;; --verbose) verbose=1; shift;;
    -h|--help) usage; exit 0;; -*) usage >&2; exit 2;; *) break;;
  esac
done
[ $# -gt 0 ] || { usage >&2; exit 2; }
script=$1; shift
[ -r "$script" ] || { echo "vm-run: no file $script" >&2; exit 2; }

case $driver in
  vivid) modules=(vivid) player='';;
  loopback) modules=(v4l2loopback) player=v4l2_feed;;
  uvc) modules=(uvcvideo vhci-hcd) player=uvc_cam;;
  none) modules=() player='';;
  *) echo "vm-run: no driver $driver" >&2; exit 2;;
esac
[ -z "$share" ] || modules+=(virtio_pci 9pnet_virtio 9p)
# ext4 asks for its checksum by a name that is not its module's
[ ${#disks[@]} = 0 ] || modules+=(virtio_pci virtio_blk crc32c_generic ext4)

cache=${VM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/v4l2-vm}
mkdir -p "$cache"
began=$(date +%s.%N)
# shellcheck source=vm-fetch.sh
. "$here/vm-fetch.sh"
# Two runs may start at once: the second waits, then finds nothing left to fetch.
( flock 9; vm_fetch "$cache" "$here" "$driver" "$player" "${tools[@]}" ) 9>"$cache/.lock" ||
  fail "the machine's parts could not be brought into $cache (see above)"
system=$cache/sys
kernel=$(cat "$cache/kver")

work=$(mktemp -d)
qemu=
trap '[ -z "$qemu" ] || kill "$qemu" 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
root=$work/root
mkdir -p "$root"/{bin,dev,proc,sys,run,tmp,etc,share,root,lib/modules/"$kernel"}
cp "$system/bin/busybox" "$root/bin/"

# Puts FILE at DEST, without debug information, which would fill the machine's memory, and its libraries.
add() {
  mkdir -p "$root$(dirname "$2")"
  strip --strip-debug -o "$root$2" "$(realpath "$1")" 2>/dev/null || cp -L "$1" "$root$2"
  chmod +x "$root$2"
  add_libraries "$1"
}

# Puts the shared libraries that FILE needs where the loader looks for them.
add_libraries() {
  local library to
  # The cache's libraries are for the tools: those of this system come first. ldd fails for what is no dynamic program.
  { LD_LIBRARY_PATH="/lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu:$system/usr/lib/x86_64-linux-gnu" \
    ldd "$1" 2>/dev/null || true; } |
    sed -nE 's/.*=> (\/[^ ]+) .*/\1/p; s/^\s*(\/[^ ]+) .*/\1/p' | while read -r library; do
      to=/lib/x86_64-linux-gnu/$(basename "$library")
      case $library in */ld-linux-x86-64.so.2) to=/lib64/ld-linux-x86-64.so.2;; esac
      [ -e "$root$to" ] || { mkdir -p "$root$(dirname "$to")"; cp -L "$library" "$root$to"; }
    done
}
install -Dm755 "$script" "$root/test/script"
for file in "${with[@]}"; do
  from=${file%%:*} as=/bin/$(basename "${file%%:*}")
  case $file in *:*) as=${file#*:};; esac
  [ -r "$from" ] || fail "no file $from"
  if [ -n "$as" ]; then add "$from" "$as"; else add_libraries "$from"; fi
done
[ -z "$player" ] || add "$cache/$player" "/bin/$player"
for tool in "${tools[@]}"; do add "$system/usr/bin/$tool" "/bin/$tool"; done

from=$system/lib/modules/$kernel
for module in "${modules[@]}"; do
  line=$(grep -E "(^|/)${module//[-_]/[-_]}\.ko:" "$from/modules.dep") || fail "kernel $kernel has no module $module"
  for file in ${line/:/ }; do
    [ -e "$root/lib/modules/$kernel/$file" ] || install -Dm644 "$from/$file" "$root/lib/modules/$kernel/$file"
  done
done
"$system/bin/busybox" depmod -b "$root" "$kernel"

{
  printf 'driver=%q cams=%q param=%q share=%q disks=%q\n' "$driver" "$cams" "$param" "${share:+yes}" ${#disks[@]}
  printf 'run() { /bin/sh /test/script'; [ $# -eq 0 ] || printf ' %q' "$@"; printf '; }\n'
} > "$root/etc/vm.conf"
install -m755 "$here/vm-init.sh" "$root/init"
(cd "$root" && find . | "$system/bin/busybox" cpio -o -H newc 2>/dev/null) > "$work/initramfs"
prepared=$(date +%s.%N)

: "${log:=$work/console.log}"
: > "$log"
machine=(qemu-system-x86_64 -machine pc -accel "tcg,thread=multi" -cpu max -smp 2 -m "$mem"
  -nodefaults -no-user-config -display none -no-reboot
  -kernel "$system/boot/vmlinuz-$kernel" -initrd "$work/initramfs"
  -append "console=ttyS0 quiet loglevel=6 panic=-1 nokaslr mitigations=off audit=0 apparmor=0 no_timer_check tsc=nowatchdog random.trust_cpu=on rdinit=/init"
  -serial "file:$log" -chardev stdio,id=out,signal=off -serial chardev:out
  -device isa-debug-exit,iobase=0xf4,iosize=1)
[ -z "$share" ] || machine+=(-virtfs "local,path=$share,mount_tag=share,security_model=none,multidevs=remap")
number=0
for disk in "${disks[@]}"; do
  file=${disk%%:*} node=disk$number
  machine+=(-blockdev "driver=raw,node-name=$node,file.driver=file,file.filename=$file")
  if [ "$file" != "$disk" ]; then
    : > "${disk#*:}"
    machine+=(-blockdev "driver=file,node-name=log$number,filename=${disk#*:}"
      -blockdev "driver=blklogwrites,node-name=logged$number,file=$node,log=log$number,log-sector-size=512")
    node=logged$number
  fi
  # a cache that keeps what is written until it is flushed, like a real disk's
  machine+=(-device "virtio-blk-pci,drive=$node,write-cache=on,discard=off,write-zeroes=off")
  number=$((number + 1))
done
[ -z "$pull" ] || machine+=(-pidfile "$work/pid")
status=0
timeout -k 5 "$limit" "${machine[@]}" </dev/null & qemu=$!
if [ -n "$pull" ]; then
  until grep -q '^@@pull-plug' "$log" || ! kill -0 "$qemu" 2>/dev/null; do sleep 0.05; done
  if kill -KILL "$(cat "$work/pid")"; then
    wait "$qemu" || true
    qemu=
    exit 0
  fi
fi
wait "$qemu" || status=$?
qemu=
code=$(sed -nE 's/\r//; s/^@@vm-exit ([0-9]+).*/\1/p' "$log" | tail -1)
if [ -n "$verbose" ]; then
  sed 's/\r//' "$log" >&2
  awk -v a="$began" -v b="$prepared" -v c="$(date +%s.%N)" -v size="$(stat -c %s "$work/initramfs")" \
    'BEGIN { printf "vm-run: prepared in %.1f s, ran for %.1f s, initramfs %.0f MiB\n", b-a, c-b, size/1048576 }' >&2
fi
if [ "$status" = 124 ] || [ "$status" = 137 ]; then echo "vm-run: the limit of $limit s was reached" >&2; exit 124; fi
if [ -z "$code" ]; then
  tail -40 "$log" | sed 's/\r//' >&2
  fail "the machine ended without the script's exit code (QEMU's status is $status)"
fi
# isa-debug-exit ends QEMU with (code * 2 + 1) mod 256: the same code, on another way.
[ "$status" = $(((code * 2 + 1) & 255)) ] || fail "QEMU's status $status does not go with exit code $code"
exit "$code"
