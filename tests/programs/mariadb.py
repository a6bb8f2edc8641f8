"""MariaDB, through PyMySQL: what its applications do."""

import pymysql
from proving import store


def connect(host):
    return pymysql.connect(host=host, user="root", connect_timeout=10, read_timeout=30)


def one(connection, text):
    with connection.cursor() as cursor:
        cursor.execute(text)
        return cursor.fetchone()


def first(host):
    with connect(host) as connection:
        assert one(connection, "select 6 * 7") == (42,)


def work(host):
    with connect(host) as connection:
        one(connection, "drop database if exists shop")
        one(connection, "create database shop")
        one(connection, "use shop")
        one(connection, "create table orders (id int auto_increment primary key, what text, picture longblob) engine=innodb")
        with connection.cursor() as cursor:
            cursor.executemany("insert into orders (what) values (%s)", [(f"item {n}",) for n in range(500)])
            cursor.execute("insert into orders (what, picture) values ('big', %s)", (b"\xff" * 3_000_000,))
        connection.commit()
        one(connection, "delete from orders")
        connection.rollback()
        assert one(connection, "select count(*), max(length(picture)) from orders") == (501, 3_000_000)
        assert one(connection, "select picture from orders where what = 'big'") == (b"\xff" * 3_000_000,)


store(first, work)
