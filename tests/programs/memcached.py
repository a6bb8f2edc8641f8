"""memcached, through pymemcache."""

from contextlib import closing

from proving import store
from pymemcache.client.base import Client


def first(host):
    with closing(Client((host, 11211), connect_timeout=10, timeout=10)) as client:
        assert client.version()


def work(host):
    with closing(Client((host, 11211), connect_timeout=10, timeout=10)) as client:
        client.flush_all()
        value = bytes(range(256)) * 3000
        assert client.set("big", value, noreply=False)
        assert client.get("big") == value
        assert not client.set_many({f"key-{number}": f"{number}" for number in range(500)}, noreply=False)
        assert len(client.get_many([f"key-{number}" for number in range(500)])) == 500
        assert client.add("count", "1", noreply=False) and not client.add("count", "5", noreply=False)
        assert [client.incr("count", 1) for _ in range(100)][-1] == 101


store(first, work)
