#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Process 1 of a lab guest's initial file system. /lab/settings (shell assignments) says what is wanted:
# shape, release, network (address of the guest, or empty), shell (size of its terminal, or empty). /lab/modules lists files to load.

PATH=/bin:/sbin:/usr/bin:/usr/sbin
export PATH

fail() {
	echo "kmend-lab-init: $*" >/dev/console
	/bin/busybox sync
	/bin/busybox poweroff -f
}

. /lab/settings
/bin/busybox --install -s /bin
chmod 0755 /
mount -t devtmpfs -o mode=0755 dev /dev
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sys /sys
mount -t tmpfs -o mode=0755,nosuid,nodev run /run

while read -r file; do
	insmod "/lib/modules/$release/$file" || fail "cannot load $file"
done </lab/modules

ip link set lo up
if [ -n "$network" ]; then
	ip addr add "$network" dev eth0 && ip link set eth0 up || fail "cannot set up the network"
fi

if [ "$shape" = micro ]; then
	mkdir -p /dev/pts /dev/shm
	mount -t devpts -o mode=0620,gid=5 devpts /dev/pts
	mount -t tmpfs -o mode=1777 shm /dev/shm
	mount -t tmpfs -o mode=1777 tmp /tmp
	mount -t securityfs securityfs /sys/kernel/security 2>/dev/null
	mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
	mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
	hostname kmend-lab
	if [ -n "$shell" ]; then
		(
			cd /root
			HOME=/root TERM=vt102 setsid cttyhack sh -c "stty $shell; exec sh -l"
			poweroff -f
		) &
	fi
	exec /lab/runner
fi

disk() { # the block device whose serial number is $1
	for attempt in 1 2 3 4 5 6 7 8 9 10; do
		for entry in /sys/block/vd*; do
			if [ "$(cat "$entry/serial" 2>/dev/null)" = "$1" ]; then
				echo "/dev/${entry##*/}"
				return
			fi
		done
		sleep 0.2
	done
}

mkdir -p /target
mount -t ext4 -o rw "$(disk root)" /target || fail "cannot mount the root file system"
mkdir -p "/target/usr/lib/modules/$release"
mount -t ext4 -o ro "$(disk modules)" "/target/usr/lib/modules/$release" || fail "cannot mount the modules"
cp -a /lab/run/. /run/
cp /lab/runner /run/kmend-lab/runner
mount --move /run /target/run
mount --move /dev /target/dev
mount --move /sys /target/sys
mount --move /proc /target/proc
exec switch_root /target /sbin/init
fail "cannot start the userland"
