"""PostgreSQL, through psycopg: what its applications do."""

import threading

import psycopg
from proving import store


def connect(host, **more):
    return psycopg.connect(host=host, user="postgres", dbname="postgres", connect_timeout=10, sslmode="disable", **more)


def first(host):
    with connect(host) as connection:
        assert connection.execute("select 6 * 7").fetchone() == (42,)


def work(host):
    with connect(host) as connection:
        connection.execute("drop table if exists orders")
        connection.execute("create table orders (id serial primary key, what text, count int)")
        with connection.cursor() as cursor:
            cursor.executemany("insert into orders (what, count) values (%s, %s)", [(f"item {n}", n) for n in range(500)])
        connection.commit()
        connection.execute("delete from orders")
        connection.rollback()
        assert connection.execute("select count(*), sum(count) from orders").fetchone() == (500, 124750)

        # Four megabytes in, and out again.
        block = "x" * 1000
        connection.execute("create temporary table bulk (line text)")
        with connection.cursor().copy("copy bulk from stdin") as copy:
            for _ in range(4096):
                copy.write_row((block,))
        with connection.cursor().copy("copy bulk to stdout") as copy:
            assert sum(len(piece) for piece in copy) == 4096 * 1001
        connection.commit()

        # A second connection is told at once, and a third request is cancelled over a connection of its own.
        with connect(host, autocommit=True) as listener:
            listener.execute("listen news")
            connection.execute("notify news, 'arrived'")
            connection.commit()
            assert next(listener.notifies(timeout=10)).payload == "arrived"
        threading.Timer(0.3, connection.cancel).start()
        try:
            connection.execute("select pg_sleep(60)")
            raise AssertionError("it was not cancelled")
        except psycopg.errors.QueryCanceled:
            connection.rollback()


store(first, work)
