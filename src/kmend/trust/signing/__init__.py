"""The signing side: keys, module signatures, publishing. Only the factory imports it; it needs `cryptography`.

`keyfiles` makes and opens a folder of keys, `modules` signs modules as the kernel's sign-file does, `tree` reads and writes a
repository's metadata on disk, `publishing` puts levels into it.
"""
