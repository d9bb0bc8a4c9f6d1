"""An app that knows nothing of being stopped, for gunicorn."""

import time
from urllib.parse import parse_qs

TICK = 0.2


def app(environ, start_response):
    path = environ["PATH_INFO"]
    seconds = int(parse_qs(environ["QUERY_STRING"]).get("ms", ["0"])[0]) / 1000
    if path == "/stream":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return stream(seconds)
    if path == "/upload":
        left = int(environ.get("CONTENT_LENGTH") or 0)
        taken = 0
        while left > taken:
            got = environ["wsgi.input"].read(min(4096, left - taken))
            if not got:
                break
            taken += len(got)
        body = b"taken %d\n" % taken
    else:
        time.sleep(seconds)
        body = b"done\n"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def stream(seconds):
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        yield b"more\n"
        time.sleep(min(TICK, left))
    yield b"end\n"
