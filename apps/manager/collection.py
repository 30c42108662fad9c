"""What most resources have in common: create, read, list, change, delete, each within the tenants
and clusters that the caller's grants reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
from tortoise.expressions import Q
from tortoise.models import Model
from tortoise.queryset import QuerySet

from hawker.apps.manager.call import Call
from hawker.apps.manager.operation import PREFIX, Operation
from hawker.core.errors import NotFound

M = TypeVar("M", bound=Model)
AT_ONCE = 5


class Collection(Generic[M]):
    """Rows of one table. `tenant_field` and `cluster_field` name the columns that say what a row is
    within; a resource without them is outside of any, and for grants without bounds alone."""

    name: ClassVar[str]
    model: type[M]
    view_type: ClassVar[Any]
    new_type: ClassVar[Any] = None
    change_type: ClassVar[Any] = None
    tenant_field: ClassVar[str] = ""
    cluster_field: ClassVar[str] = ""
    filters: ClassVar[Mapping[str, str]] = {}
    """Columns by the query parameters that are compared with them."""
    flags: ClassVar[Sequence[str]] = ()
    """Filters that are true or false."""
    choices: ClassVar[Mapping[str, Sequence[str]]] = {}
    """What filters take, where that is not any text."""
    order: ClassVar[Sequence[str]] = ("created", "id")
    deletable: ClassVar[bool] = True
    wide: ClassVar[bool] = False
    """A row may take some 100 KiB: of a page they are read a few at a time, since the event loop
    waits while rows are taken apart."""

    def operations(self) -> list[Operation]:
        one, name, view = f"/{self.name}/{{id}}", self.name, self.view_type
        made = [
            Operation(
                "GET", f"/{name}", f"List {name}", (name, "read"), self.list_, answer=view,
                listing=True, filters=(*self.filters, *self.flags),
                choices={**self.choices, **dict.fromkeys(self.flags, ("true", "false"))},
            ),
            Operation("GET", one, f"One of {name}", (name, "read"), self.read, answer=view),
        ]  # fmt: skip
        if self.new_type is not None:
            made.append(
                Operation(
                    "POST", f"/{name}", f"Create one of {name}", (name, "create"), self.create,
                    body=self.new_type, answer=view, status=201, repeatable=True,
                )
            )  # fmt: skip
        if self.change_type is not None:
            made.append(
                Operation(
                    "PATCH", one, f"Change one of {name}", (name, "update"), self.change,
                    body=self.change_type, answer=view, conditional=True,
                )
            )  # fmt: skip
        if self.deletable:
            made.append(
                Operation("DELETE", one, f"Delete one of {name}", (name, "delete"), self.delete)
            )
        return made

    # ------------------------------------------------------------------ what differs

    async def view(self, row: M) -> msgspec.Struct:
        """What clients see of a row."""
        raise NotImplementedError

    async def values(self, call: Call) -> dict[str, Any]:
        """The columns of a new row, or those that change, by what was sent. Outside of the
        transaction; raises for what is not allowed."""
        return dict(msgspec.to_builtins(call.body))

    async def check_change(self, call: Call, row: M, values: dict[str, Any]) -> None:
        """Inside the transaction, before a row is changed; raises for what is not allowed."""

    async def changed(self, call: Call, row: M) -> None:
        """Inside the transaction, after a row was created or changed."""

    async def check_delete(self, call: Call, row: M) -> None:
        """Inside the transaction, before a row is deleted; raises for what is not allowed."""

    async def remove(self, call: Call, row: M) -> None:
        """Inside the transaction, delete a row."""
        await row.delete()

    async def done(self) -> None:
        """After the transaction of a change."""

    # ------------------------------------------------------------------ what does not

    def within(self, row: M | Mapping[str, Any]) -> tuple[str | None, str | None]:
        """The tenant and the cluster that a row is within."""

        def value(field: str) -> str | None:
            if not field:
                return None
            found = row.get(field) if isinstance(row, Mapping) else getattr(row, field)
            return found or None

        return value(self.tenant_field), value(self.cluster_field)

    def reached(self, call: Call) -> QuerySet[M]:
        """The rows that the caller may do this with."""
        within: Q | None = None
        for tenant, cluster in call.reach():
            if (tenant and not self.tenant_field) or (cluster and not self.cluster_field):
                continue
            if not tenant and not cluster:
                return self.model.all()
            terms = {}
            if tenant:
                terms[self.tenant_field] = tenant
            if cluster:
                terms[self.cluster_field] = cluster
            within = Q(**terms) if within is None else within | Q(**terms)
        if within is None:
            return self.model.filter(pk="")
        return self.model.filter(within)

    async def find(self, call: Call, *, lock: bool = False) -> M:
        """The row that the path names, if the caller may do this with it; raises NotFound,
        Forbidden."""
        query = self.model.filter(pk=call.param("id"))
        # What refers to it may come and go meanwhile, but where it is deleted itself.
        row = await (query.select_for_update(no_key=True) if lock else query).first()
        if row is None:
            # Whoever is bound to a tenant or cluster learns as much of what is not theirs.
            raise self.missing()
        call.require(*self.within(row))
        return row

    def missing(self) -> NotFound:
        return NotFound(f"there is no such thing among {self.name}")

    async def list_(self, call: Call) -> None:
        skipped = (call.page - 1) * call.per_page
        rows = await self.page(call, skipped, call.per_page)
        call.answer = [await self.view(row) for row in rows]

    async def page(self, call: Call, skipped: int, count: int) -> list[M]:
        """So many rows, after those that are skipped; says whether there are `more`."""
        query = self.narrow(self.reached(call), call).order_by(*self.order)
        query = query.offset(skipped).limit(count + 1)
        if not self.wide:
            rows = await query
            call.more = len(rows) > count
            return rows[:count]
        ids = [str(one) for one in await query.values_list("id", flat=True)]
        call.more = len(ids) > count
        rows = []
        for start in range(0, min(len(ids), count), AT_ONCE):
            some = ids[start : min(start + AT_ONCE, count)]
            found = {row.pk: row for row in await self.model.filter(pk__in=some)}
            rows += [found[one] for one in some if one in found]
        return rows

    def narrow(self, query: QuerySet[M], call: Call) -> QuerySet[M]:
        """What the query's parameters leave."""
        for name, value in call.filters.items():
            if name in self.flags:
                query = query.filter(**{name: value == "true"})
            else:
                query = query.filter(**{self.filters[name]: value})
        return query

    async def read(self, call: Call) -> None:
        call.answer = await self.view(await self.find(call))

    async def create(self, call: Call) -> None:
        values = await self.values(call)
        # A row's own id, where that is its bound, is nobody's yet.
        call.require(*self.within({k: v for k, v in values.items() if k != "id"}))
        async with call.change():
            row = await self.model.create(**values)
            await self.changed(call, row)
            call.answer = await self.view(row)
            await call.audit("create", str(row.pk), None, call.answer)
        await self.done()
        call.headers["location"] = f"{call.mount}{PREFIX}/{self.name}/{row.pk}"

    async def change(self, call: Call) -> None:
        values = await self.values(call)
        async with call.change():
            row = await self.find(call, lock=True)
            call.matching(row.revision)  # type: ignore[attr-defined]
            before = await self.view(row)
            await self.check_change(call, row, values)
            await row.update_from_dict(
                {**values, "revision": row.revision + 1}  # type: ignore[attr-defined]
            ).save()
            await self.changed(call, row)
            call.answer = await self.view(row)
            await call.audit("update", str(row.pk), before, call.answer)
        await self.done()

    async def delete(self, call: Call) -> None:
        async with call.change():
            row = await self.find(call, lock=True)
            if hasattr(row, "revision"):
                call.matching(row.revision, needed=False)
            await self.check_delete(call, row)
            await call.audit("delete", str(row.pk), await self.view(row), None)
            await self.remove(call, row)
        await self.done()
