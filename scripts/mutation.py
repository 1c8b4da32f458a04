"""Mutants of the source: small faults, named so that they survive a move of the code.

A *drawn* mutant is one change of one node of a function's syntax tree. Its name is module,
qualified name, operator and the ordinal of the operator's sites in that function
(``sidar.align.dpo:dpo arithmetic 1``), never a line. A *listed* mutant is an explicit edit: a
snippet of a function's source and what replaces it.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
#: The packages that mutants are drawn from, the same number of each.
PACKAGES = ("align", "data", "train", "decode", "evaluate", "pipeline", "answer")
#: Modules that draw pages, pictures and toy data: a changed width or word is no fault there.
NOT_DRAWN = (
    "sidar.data.sample",
    "sidar.data.toy",
    "sidar.evaluate.charts",
    "sidar.evaluate.document",
    "sidar.evaluate.report",
    "sidar.pipeline.bakeoff.caveats",
    "sidar.pipeline.bakeoff.page",
    "sidar.pipeline.template",
)
#: {module in a mutant's name: module that has the code today}, for modules that have moved.
MOVED: dict[str, str] = {
    "sidar.lm.graphs": "sidar.lm.beams.graphs",
    "sidar.lm.lean": "sidar.lm.beams.lean",
    "sidar.lm.products": "sidar.lm.beams.products",
    "sidar.lm.tree": "sidar.lm.beams.tree",
    "sidar.pipeline.answer_log": "sidar.pipeline.rows.answer_log",
    "sidar.pipeline.answer_rows": "sidar.pipeline.rows.answer_rows",
    "sidar.pipeline.answering": "sidar.pipeline.rows.answering",
    "sidar.pipeline.auxiliary": "sidar.pipeline.rows.auxiliary",
    "sidar.pipeline.dense_rows": "sidar.pipeline.rows.dense_rows",
    "sidar.pipeline.generative": "sidar.pipeline.rows.generative",
    "sidar.pipeline.memory_row": "sidar.pipeline.rows.memory_row",
    "sidar.pipeline.ranked_row": "sidar.pipeline.rows.ranked_row",
    "sidar.pipeline.ranking": "sidar.pipeline.rows.ranking",
    "sidar.pipeline.rerank": "sidar.pipeline.rows.rerank",
    "sidar.pipeline.shown_lists": "sidar.pipeline.rows.shown_lists",
    "sidar.pipeline.systems": "sidar.pipeline.rows.systems",
    "sidar.train.groups": "sidar.train.rl.groups",
    "sidar.train.judge": "sidar.train.rl.judge",
    "sidar.train.reinforce": "sidar.train.rl.reinforce",
    "sidar.train.rollouts": "sidar.train.rl.rollouts",
    "sidar.train.contrast": "sidar.train.encoder.contrast",
    "sidar.train.dense": "sidar.train.encoder.dense",
    "sidar.train.pairs": "sidar.train.encoder.pairs",
    "sidar.train.towers": "sidar.train.encoder.towers",
    "sidar.evaluate.expected": "sidar.evaluate.measures.expected",
    "sidar.evaluate.hitrate": "sidar.evaluate.measures.hitrate",
    "sidar.evaluate.metrics": "sidar.evaluate.measures.metrics",
    "sidar.evaluate.oracle": "sidar.evaluate.measures.oracle",
    "sidar.evaluate.plugin_metrics": "sidar.evaluate.measures.plugin_metrics",
    "sidar.evaluate.truth": "sidar.evaluate.measures.truth",
    "sidar.lm.geometry": "sidar.lm.prior.geometry",
    "sidar.lm.legal": "sidar.lm.prior.legal",
    "sidar.lm.masses": "sidar.lm.prior.masses",
    "sidar.data.advice": "sidar.data.cleaning.advice",
    "sidar.data.categories": "sidar.data.cleaning.categories",
    "sidar.data.clean": "sidar.data.cleaning.clean",
    "sidar.data.normalise": "sidar.data.cleaning.normalise",
    "sidar.data.positions": "sidar.data.cleaning.positions",
    "sidar.data.quarantine": "sidar.data.cleaning.quarantine",
    "sidar.data.evalsets": "sidar.data.judgments.evalsets",
    "sidar.data.heldout": "sidar.data.judgments.heldout",
    "sidar.data.judged": "sidar.data.judgments.judged",
    "sidar.data.examples": "sidar.data.training.examples",
    "sidar.data.health": "sidar.data.training.health",
    "sidar.data.priors": "sidar.data.training.priors",
    "sidar.data.propensity": "sidar.data.training.propensity",
    "sidar.data.splits": "sidar.data.training.splits",
    "sidar.sid.acrq": "sidar.sid.tokenizers.acrq",
    "sidar.sid.cqsid": "sidar.sid.tokenizers.cqsid",
    "sidar.sid.imported": "sidar.sid.tokenizers.imported",
    "sidar.sid.random_ids": "sidar.sid.tokenizers.random_ids",
    "sidar.sid.rqkmeans": "sidar.sid.tokenizers.rqkmeans",
    "sidar.sid.rqvae": "sidar.sid.tokenizers.rqvae",
    "sidar.sid.sarq": "sidar.sid.tokenizers.sarq",
    "sidar.sid.autoencoder": "sidar.sid.autoencoders.autoencoder",
    "sidar.sid.contrast": "sidar.sid.autoencoders.contrast",
    "sidar.sid.curriculum": "sidar.sid.autoencoders.curriculum",
    "sidar.sid.extension": "sidar.sid.autoencoders.extension",
    "sidar.sid.fit": "sidar.sid.autoencoders.fit",
    "sidar.sid.fit_picture": "sidar.sid.autoencoders.fit_picture",
    "sidar.sid.losses": "sidar.sid.autoencoders.losses",
    "sidar.sid.quantiser": "sidar.sid.autoencoders.quantiser",
    "sidar.sid.balance": "sidar.sid.codebooks.balance",
    "sidar.sid.guided": "sidar.sid.codebooks.guided",
    "sidar.sid.kmeans": "sidar.sid.codebooks.kmeans",
    "sidar.sid.lengths": "sidar.sid.codebooks.lengths",
    "sidar.sid.split": "sidar.sid.codebooks.split",
    "sidar.sid.standin": "sidar.sid.codebooks.standin",
    "sidar.sid.alarms": "sidar.sid.lifecycle.alarms",
    "sidar.sid.continued": "sidar.sid.lifecycle.continued",
    "sidar.sid.ledger": "sidar.sid.lifecycle.ledger",
    "sidar.sid.reference": "sidar.sid.lifecycle.reference",
    "sidar.sid.refresh": "sidar.sid.lifecycle.refresh",
    "sidar.sid.versions": "sidar.sid.lifecycle.versions",
}

FLIPS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_PAIRS = (
    "min max",
    "amin amax",
    "argmin argmax",
    "minimum maximum",
    "any all",
    "floor ceil",
    "ones zeros",
)
EXTREMES = {one: other for pair in _PAIRS for one, other in (pair.split(), reversed(pair.split()))}
#: Calls that only tell somebody something, keywords that only guard or format, clocks.
TELLING = {"print", "say", "progress", "warn", "warning", "info", "debug", "log", "echo", "escape"}
GUARDING = {
    "strict",
    "exist_ok",
    "parents",
    "missing_ok",
    "ignore_errors",
    "indent",
    "sort_keys",
    "ensure_ascii",
}
GUARDING |= {
    "stacklevel",
    "encoding",
    "newline",
    "prefix",
    "say",
    "console",
    "compression",
    "show_progress",
}
CLOCK = {"monotonic", "perf_counter", "deadline", "started"}
#: Functions that only word something.
WORDING = {"__repr__", "__str__", "about"}
#: Whole numbers from here on are capacities (block sizes, timeouts), whose neighbours do the same.
CAPACITY = 1000

Function = ast.FunctionDef | ast.AsyncFunctionDef
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Slot:
    """A node in its place: ``parent.field``, or ``parent.field[index]``."""

    parent: ast.AST
    field: str
    index: int | None
    child: ast.AST

    def put(self, node: ast.AST | None) -> None:
        """Replace the node; None takes it out of its list."""
        if self.index is None:
            setattr(self.parent, self.field, node)
            return
        at = slice(self.index, self.index + 1)
        getattr(self.parent, self.field)[at] = [] if node is None else [node]


def functions(tree: ast.AST, outer: str = "") -> Iterator[tuple[str, Function]]:
    """All functions of a tree with their qualified names, in source order."""
    for child in ast.iter_child_nodes(tree):
        if not isinstance(child, _SCOPES):
            yield from functions(child, outer)
            continue
        name = outer + child.name
        if isinstance(child, ast.ClassDef):
            yield from functions(child, f"{name}.")
        else:
            yield name, child
            yield from functions(child, f"{name}.<locals>.")


def is_quiet(node: ast.AST) -> bool:
    """Whether ``node`` has words, types or clocks alone, or belongs to another function."""
    if isinstance(
        node, (*_SCOPES, ast.Assert, ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)
    ):
        return True
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) or is_quiet(node.value)
    if isinstance(node, ast.Call):
        # digits to show
        return _called(node) in TELLING or (_called(node) == "round" and len(node.args) == 2)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.LShift):
        return _is_number(node.left) and _is_number(node.right)  # 1 << 16, a capacity
    if isinstance(node, ast.keyword):
        return node.arg in GUARDING
    if isinstance(node, ast.If):
        return not node.orelse and all(
            is_quiet(each) and not isinstance(each, ast.Raise) for each in node.body
        )
    if isinstance(node, ast.Assign):
        return any(
            getattr(each, "attr", getattr(each, "id", None)) in CLOCK for each in ast.walk(node)
        )
    return False


def slots(node: ast.AST) -> Iterator[Slot]:
    """All places inside ``node`` where a change would be a fault, in source order."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "args", "decorator_list", "returns") and not isinstance(
            node, ast.Call
        ):
            continue
        children = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, child in children:
            if isinstance(child, ast.AST) and not is_quiet(child):
                yield Slot(node, name, index, child)
                yield from slots(child)


def edits(slot: Slot) -> Iterator[tuple[str, ast.AST | None]]:
    """(operator, node to put there) for each fault that fits the slot."""
    node, parent = slot.child, slot.parent
    if isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            changed = deepcopy(node)
            changed.ops[i] = FLIPS[type(operator)]()
            yield "compare", changed
    elif isinstance(node, ast.BoolOp):
        yield (
            "boolean",
            ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values),
        )
    elif (
        isinstance(node, ast.BinOp)
        and type(node.op) in ARITHMETIC
        and not _is_text(node.left, node.right)
    ):
        yield "arithmetic", ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)
    elif isinstance(node, ast.Constant):
        yield from (("constant", ast.Constant(value)) for value in _neighbours(node.value))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "negation", node.operand
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        yield "sign", node.operand
    elif isinstance(node, ast.keyword) and node.arg is not None:
        yield "keyword", None
    elif (
        isinstance(node, ast.Return)
        and isinstance(node.value, ast.Tuple)
        and len(node.value.elts) == 2
    ):
        yield "return", ast.Return(ast.Tuple(node.value.elts[::-1], ast.Load()))
    elif isinstance(node, ast.Call):
        yield from _call_edits(node)
    elif (
        isinstance(node, (ast.AugAssign, ast.Continue, ast.Break))
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
        or (
            isinstance(node, ast.Assign)
            and all(isinstance(x, (ast.Attribute, ast.Subscript)) for x in node.targets)
        )
    ):
        yield "statement", ast.Pass()
    if slot.field == "test" and isinstance(parent, (ast.If, ast.IfExp)):
        yield from (("condition", ast.Constant(value)) for value in (True, False))
    if slot.field == "ifs":
        yield "filter", None
    if isinstance(parent, ast.Slice) and slot.field != "step" and not _is_number(node):
        assert isinstance(node, ast.expr)
        yield "slice", ast.BinOp(node, ast.Add(), ast.Constant(1))


def _call_edits(node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    name, args = _called(node), node.args
    if name in EXTREMES:
        changed = deepcopy(node)
        if isinstance(changed.func, ast.Name):
            changed.func.id = EXTREMES[name]
        elif isinstance(changed.func, ast.Attribute):
            changed.func.attr = EXTREMES[name]
        yield "extreme", changed
    if name == "sorted" and all(each.arg != "reverse" for each in node.keywords):
        yield (
            "sorted",
            ast.Call(node.func, args, [*node.keywords, ast.keyword("reverse", ast.Constant(True))]),
        )
    plain = len(args) >= 2 and all(isinstance(each, (ast.Name, ast.Attribute)) for each in args[:2])
    if (
        plain
        and ast.dump(args[0]) != ast.dump(args[1])
        and name not in ("isinstance", "hasattr", "cast")
    ):
        yield "swap", ast.Call(node.func, [args[1], args[0], *args[2:]], node.keywords)


def _called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def _is_text(*nodes: ast.expr) -> bool:
    return any(
        isinstance(n, ast.JoinedStr) or (isinstance(n, ast.Constant) and isinstance(n.value, str))
        for n in nodes
    )


def _is_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) or (
        isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant)
    )


def _neighbours(value: object) -> Iterator[bool | int | float]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int) and value < CAPACITY:
        yield 1 - value if value in (0, 1) else value + 1
    elif isinstance(value, float) and 1e-5 < abs(value) < float("inf"):
        yield value + 1
    elif value == 0.0 and isinstance(value, float):
        yield 1.0


def sites(function: Function) -> Iterator[tuple[str, Slot, ast.AST | None]]:
    """(operator and ordinal, slot, node to put there) for every drawn mutant of ``function``."""
    seen: Counter[str] = Counter()
    for slot in slots(function):
        for operator, node in edits(slot):
            seen[operator] += 1
            yield f"{operator} {seen[operator]}", slot, node


@dataclass(frozen=True)
class Mutant:
    """A fault of one function: a listed edit, ``before`` → ``after``, or a drawn ``operator``."""

    module: str  # as named, see MOVED
    function: str
    operator: str = ""
    title: str = ""
    before: str = ""
    after: str = ""
    tests: tuple[str, ...] = field(default=())  # of a listed mutant: those that catch it

    @property
    def name(self) -> str:
        return self.title or f"{self.module}:{self.function} {self.operator}"

    @property
    def file(self) -> Path:
        return file_of(MOVED.get(self.module, self.module))

    def tree(self, source: str | None = None) -> ast.Module:
        """Return the module's syntax tree with the fault; ``ValueError`` where it does not fit."""
        source = self.file.read_text() if source is None else source
        tree = ast.parse(source)
        scopes = dict(functions(tree)) | {
            c.name: c for c in ast.walk(tree) if isinstance(c, ast.ClassDef)
        }
        if self.function not in scopes:
            raise ValueError(
                f"{self.name}: {self.module} has no {self.function}; edit the mutant, or name the "
                "move"
            )
        scope = scopes[self.function]
        if not self.operator:
            return ast.parse(self._edited(source, scope))
        assert not isinstance(scope, ast.ClassDef)
        for operator, slot, node in sites(scope):
            if operator == self.operator:
                slot.put(node)
                return ast.fix_missing_locations(tree)
        raise ValueError(f"{self.name}: {self.function} has no such site any more")

    def _edited(self, source: str, scope: Function | ast.ClassDef) -> str:
        assert scope.end_lineno is not None
        lines = source.splitlines(keepends=True)
        start, end = scope.lineno - 1, scope.end_lineno
        inside = "".join(lines[start:end])
        if inside.count(self.before) != 1 or self.before == self.after:
            raise ValueError(
                f"{self.name}: the snippet {self.before!r} stands {inside.count(self.before)} "
                f"times in {self.module}:{self.function}, it must stand there once; edit the mutant"
            )
        return "".join([*lines[:start], inside.replace(self.before, self.after), *lines[end:]])


def file_of(module: str) -> Path:
    """The source file of a module."""
    path = SOURCE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def modules() -> Iterator[str]:
    """All modules of the source tree, under the names that mutants use."""
    names = {today: name for name, today in MOVED.items()}
    for path in sorted(SOURCE.rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        yield names.get(module, module)


def drawn(seed: int, count: int) -> list[Mutant]:
    """``count`` mutants of each package: those with the smallest hash of seed and name.

    A mutant's place depends on no other mutant, so that new code replaces few of a draw.
    """
    pools: dict[str, list[Mutant]] = {package: [] for package in PACKAGES}
    for module in modules():
        package = module.split(".")[1] if "." in module else ""
        if package in pools and not module.startswith(NOT_DRAWN):
            tree = ast.parse(file_of(MOVED.get(module, module)).read_text())
            for function, node in functions(tree):
                if node.name not in WORDING:
                    pools[package] += [
                        Mutant(module, function, operator) for operator, _, _ in sites(node)
                    ]
    return [
        mutant
        for pool in pools.values()
        for mutant in sorted(pool, key=lambda m: _draw(seed, m))[:count]
    ]


def _draw(seed: int, mutant: Mutant) -> str:
    return sha256(f"{seed} {mutant.name}".encode()).hexdigest()


def with_probes(tree: ast.Module, module: str, probe: str) -> ast.Module:
    """Insert ``probe("module:function")`` at the head of every function."""
    for name, node in list(functions(tree)):
        call = ast.Call(ast.Name(probe, ast.Load()), [ast.Constant(f"{module}:{name}")], [])
        node.body.insert(int(ast.get_docstring(node) is not None), ast.Expr(call))
    return ast.fix_missing_locations(tree)


def matching(mutants: Iterable[Mutant], only: str) -> list[Mutant]:
    """Those whose name contains ``only``."""
    return [mutant for mutant in mutants if only in mutant.name]
