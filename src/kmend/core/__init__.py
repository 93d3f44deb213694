"""The shared words: kernel identity and refs, manifests and levels, strict documents, durable files, errors, processes.

Everything else may import this room; it imports only the standard library. Its modules are public: `errors`, `kernel`,
`manifest`, `document`, `durable`, `process`, `cache`.
"""
