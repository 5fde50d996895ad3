"""Changes tables that have rows, which on SQLite copies them."""

from decimal import Decimal

from django.db import migrations, models


def add_row(apps, schema_editor):
    authors = apps.get_model("library", "Author").objects.using(schema_editor.connection.alias)
    authors.create(name="?")


def remove_row(apps, schema_editor):
    authors = apps.get_model("library", "Author").objects.using(schema_editor.connection.alias)
    authors.get(name="?").delete()


class Migration(migrations.Migration):
    dependencies = (("library", "0001_initial"),)
    operations = (
        migrations.RunPython(add_row, remove_row),
        migrations.AlterField("author", "name", models.CharField(max_length=40, unique=True)),
        migrations.AddField("author", "born", models.DateField(null=True)),
        migrations.AddField(
            "book",
            "price",
            models.DecimalField(decimal_places=2, default=Decimal(0), max_digits=6),
        ),
        migrations.AddField("book", "extra", models.JSONField(default=dict)),
        migrations.RunPython(remove_row, add_row),
    )
