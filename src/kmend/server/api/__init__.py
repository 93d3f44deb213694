"""HTTP: what hosts and people ask for.

Hosts speak to `hostside`, a plain ASGI application that knows four paths and the messages of `kmend.core.wire`. People and
programs speak to the Litestar application that `app` puts together from `routes`; every route there names the permission that
it takes (`guarding`), errors are problem documents (`problems`), lists come in pages (`paging`) or whole (`exporting`), and what
is done with an `Idempotency-Key` is done once (`once`). `services` is what all of them stand on, `holding` lets hosts wait for
news.
"""
