"""The program that makes livepatches: kernels, fixes, builds, publishing. See its rooms.

`kernels` knows a distro's kernel builds, `elf` reads and writes relocatable objects, `build` turns fixes into a livepatch,
`derive` cuts fixes out of the difference between two kernels, `fixes` reads a fix; `commands` is the command line.
"""
