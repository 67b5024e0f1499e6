#!/bin/busybox sh
# The machine's first process: loads the camera driver, runs the script, hands out its exit code.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/shm
mount -t tmpfs tmp /dev/shm
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
. /etc/vm.conf

log() { echo "@@vm $1 at $(cut -d' ' -f1 /proc/uptime) s" > /dev/console; }
finish() {
  sync
  echo "@@vm-exit $1" > /dev/console
  usleep 50000
  # isa-debug-exit: ends QEMU with status (code << 1 | 1)
  printf "\\x$(printf %02x "$1")" | dd of=/dev/port bs=1 seek=$((0xf4)) count=1 conv=notrunc 2>/dev/null
  poweroff -f
}
die() { echo "vm-init: $1" | tee /dev/ttyS1 > /dev/console; finish 125; }
repeated() { seq "$cams" | sed "s/.*/$1/" | paste -sd, -; } # VALUE, once for each camera
numbers() { seq 0 $((cams - 1)) | paste -sd, -; }

stty -F /dev/ttyS1 raw -echo
if [ -n "$share" ]; then
  modprobe -a virtio_pci 9pnet_virtio 9p || die "no 9p"
  mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=none share /share || die "cannot mount the shared folder"
fi
[ "$disks" = 0 ] || modprobe -a virtio_pci virtio_blk crc32c_generic ext4 || die "no disks"
case $driver in
  vivid) # nodes that capture only (0x1), with one webcam input (0) each, at /dev/video0, 1, ...
    set -- n_devs=$cams node_types=$(repeated 0x1) num_inputs=$(repeated 1) input_types=$(repeated 0) \
      vid_cap_nr=$(numbers) $param
    modprobe vivid "$@" || die "cannot load vivid $*"
    until [ -e /dev/video$((cams - 1)) ]; do usleep 100000; done ;;
  loopback)
    modprobe v4l2loopback devices=$cams video_nr=$(numbers) exclusive_caps=$(repeated 1) $param ||
      die "cannot load v4l2loopback" ;;
  uvc) # the cameras themselves are played by uvc_cam, plugged into this virtual host controller
    modprobe uvcvideo $param || die "cannot load uvcvideo"
    modprobe vhci-hcd || die "cannot load vhci-hcd" ;;
esac
log "script starts"
cd /test
run > /dev/ttyS1 2>&1 < /dev/null
code=$?
log "script ended with $code"
finish $code
