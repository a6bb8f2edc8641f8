"""Callers that keep their connections and pause as long as the server keeps an idle one:
`http_load.py HOST:PORT REQUESTS CALLERS PAUSE [PREFIX]`, the pause in seconds.

Every second request is a POST to a path of its own, so that the server can say how often it saw each. Nothing may fail,
and nothing is tried again."""

import collections
import http.client
import random
import sys
import threading
import time

import proving

assert proving
target, requests, callers, pause = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
prefix = sys.argv[5] if len(sys.argv) > 5 else "x"
outcome = collections.Counter()
failures = []


def call(own):
    chance = random.Random(own)
    connection = http.client.HTTPConnection(target, timeout=30)
    for number in range(requests // callers):
        method, path = ("POST", f"/post/{prefix}-{own}-{number}") if number % 2 else ("GET", "/length")
        try:
            connection.request(method, path, body=b"paid" if number % 2 else None)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status == 200:
                outcome[method] += 1
            else:
                failures.append(f"{method} {path}: {answer.status} {answer.getheader('weft-error')} {body[:100]}")
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{method} {path}: {error!r}")
            connection.close()
        # Around the moment at which the server lets go.
        time.sleep(pause * chance.uniform(0.9, 1.1))
    connection.close()


threads = [threading.Thread(target=call, args=(own,)) for own in range(callers)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(dict(outcome), len(failures), "failed")
if failures:
    sys.exit("\n".join(failures[:20]))
