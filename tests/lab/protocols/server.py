"""An app that knows nothing of being stopped, behind servers that nobody here wrote: `server.py KIND`."""

import asyncio
import os
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

HOST, PORT = "0.0.0.0", 8080
END = b"end"
PART = bytes(65536)


def parts(target: str) -> Iterator[tuple[float, bytes]]:
    """The parts of an answer, each with the pause before it; its head goes out with the first."""
    url = urlsplit(target)
    query = {name: int(values[0]) for name, values in parse_qs(url.query).items()}
    ms = query.get("ms", 0)
    if url.path == "/stream":
        every = query["every"]
        for sent in range(0, ms, every):
            yield (every / 1000 if sent else 0), b"part"
        yield every / 1000, END
    elif url.path == "/large":
        for _ in range(0, query["bytes"], len(PART)):
            yield 0, PART
        yield 0, END
    else:
        yield ms / 1000, END


class Plain(BaseHTTPRequestHandler):
    """Python's own HTTP server."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)
            self.rfile.readline()
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        for number, (pause, part) in enumerate(parts(self.path)):
            time.sleep(pause)
            if number == 0:
                self.end_headers()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) + (b"0\r\n\r\n" if part == END else b""))

    do_GET = do_POST = answer

    def log_message(self, *_: object) -> None:
        pass


class Secure(ThreadingHTTPServer):
    """The same over TLS; the handshake is the business of a connection's own thread."""

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)

    def get_request(self):
        accepted, address = super().get_request()
        return self.context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False), address


def http() -> None:
    ThreadingHTTPServer((HOST, PORT), Plain).serve_forever()


def https() -> None:
    Secure.context.load_cert_chain(os.environ["CERTIFICATE"])
    Secure((HOST, PORT), Plain).serve_forever()


def sse() -> None:
    from aiohttp import web

    async def stream(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        for pause, part in parts(request.path_qs):
            await asyncio.sleep(pause)
            await response.prepare(request)
            await response.write(b"data: %b\n\n" % part)
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", stream)
    web.run_app(app, host=HOST, port=PORT, keepalive_timeout=75, print=None)


def h2c() -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body", False):
            pass
        for number, (pause, part) in enumerate(parts(f"{scope['path']}?{scope['query_string'].decode()}")):
            await asyncio.sleep(pause)
            if number == 0:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": part, "more_body": part != END})

    config = Config()
    config.bind = [f"{HOST}:{PORT}"]
    config.keep_alive_timeout = 75
    asyncio.run(serve(app, config))


def grpc() -> None:
    from grpc import aio, stream_stream_rpc_method_handler

    async def call(requests, _):
        target = None
        async for message in requests:
            target = target or message.decode()
        for pause, part in parts(target):
            await asyncio.sleep(pause)
            yield part

    class Every:
        def service(self, _):
            return stream_stream_rpc_method_handler(call)

    async def run() -> None:
        server = aio.server()
        server.add_generic_rpc_handlers([Every()])
        server.add_insecure_port(f"{HOST}:{PORT}")
        await server.start()
        await server.wait_for_termination()

    asyncio.run(run())


def websocket() -> None:
    from websockets.asyncio.server import serve
    from websockets.exceptions import ConnectionClosed

    async def talk(connection) -> None:
        with suppress(ConnectionClosed):
            async for target in connection:
                if target.startswith("/upload"):
                    while await connection.recv() != END:
                        pass
                for pause, part in parts(target):
                    await asyncio.sleep(pause)
                    await connection.send(part)

    async def run() -> None:
        async with serve(talk, HOST, PORT, compression=None) as server:
            await server.serve_forever()

    asyncio.run(run())


KINDS = {kind.__name__: kind for kind in (http, https, sse, h2c, grpc, websocket)}

if __name__ == "__main__":
    KINDS[sys.argv[1]]()
