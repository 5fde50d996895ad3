"""Tests of the project, as Django's runner runs them: each finds a volume without rows."""

import threading

from django.db import IntegrityError, OperationalError, connection, transaction
from django.test import TestCase, TransactionTestCase

from .models import Author, Book


class Rows(TestCase):
    databases = "__all__"

    def test_a_row_is_stored(self):
        ann = Author.objects.create(name="Ann")
        Book.objects.create(author=ann, title="First", price="9.50", extra={"pages": 3})
        assert Book.objects.get(extra__pages=3).author.name == "Ann"

    def test_rows_of_other_tests_do_not_remain(self):
        assert Author.objects.count() == 0
        Author.objects.using("archive").create(name="Bob")

    def test_a_savepoint_is_rolled_back_alone(self):
        Author.objects.create(name="Ann")
        try:
            with transaction.atomic():
                Author.objects.create(name="Bob")
                Author.objects.create(name="Ann")
        except IntegrityError:
            pass
        assert [author.name for author in Author.objects.all()] == ["Ann"]


class Transactions(TransactionTestCase):
    def test_threads_write_one_after_another(self):
        def work(number):
            for n in range(5):
                with transaction.atomic():
                    count = Author.objects.count()
                    Author.objects.create(name=f"{number}-{n}-{count}")
            connection.close()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counts = sorted(int(author.name.split("-")[2]) for author in Author.objects.all())
        assert counts == list(range(15))

    def test_there_is_no_remote_to_push_to(self):
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA graft_tags")
            assert "test_library" in cursor.fetchone()[0]
            with self.assertRaisesMessage(OperationalError, "no remote is configured"):
                cursor.execute("PRAGMA graft_push")
