"""Redis, through redis-py: values, transactions, queues that are waited on, news."""

import threading

import redis
from proving import store


def first(host):
    with redis.Redis(host=host, socket_timeout=10) as client:
        assert client.ping()


def work(host):
    with redis.Redis(host=host, socket_timeout=20) as client:
        client.flushall()
        big = bytes(range(256)) * 8192
        client.set("big", big)
        assert client.get("big") == big
        with client.pipeline(transaction=True) as pipeline:
            for number in range(1000):
                pipeline.incrby("sum", number)
            assert pipeline.execute()[-1] == 499500
        with client.pipeline(transaction=False) as pipeline:
            for number in range(1000):
                pipeline.echo(f"{number}")
            assert pipeline.execute() == [f"{number}".encode() for number in range(1000)]

        # A reader that waits gets what comes later; a subscriber gets news in order.
        threading.Timer(0.2, lambda: redis.Redis(host=host).rpush("queue", "late")).start()
        assert client.blpop("queue", timeout=10) == (b"queue", b"late")
        with client.pubsub() as news:
            news.subscribe("news")
            assert news.get_message(timeout=10)["type"] == "subscribe"
            for number in range(100):
                assert client.publish("news", number) == 1
            heard = [news.get_message(timeout=10)["data"] for _ in range(100)]
            assert heard == [f"{number}".encode() for number in range(100)]


store(first, work)
