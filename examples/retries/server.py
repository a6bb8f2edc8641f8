"""`server.py [fail N]`: answers every request; of N in a row, all but one with 503. `GET /count` says how many it was asked."""
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

OF = int(sys.argv[2]) if sys.argv[1:2] == ["fail"] else 1
lock, asked = threading.Lock(), 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        global asked
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/count":
            return self.say(200, str(asked))
        with lock:
            asked += 1
            works = asked % OF == 0
        self.say(200 if works else 503, "here you are" if works else "not now")

    do_GET = do_POST = answer

    def say(self, status, text):
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("", 8080), Handler).serve_forever()
