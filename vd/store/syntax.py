"""Python source as text that holds what can change a number, and nothing else."""

import ast
import json
import pickle

SAID = {"print", "say", "warn", "Progress", "progress", "report", "resume"}  # lines of progress
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def plain_text(node: ast.AST) -> str:
    """A syntax tree as text, without what changes no number.

    Neither `ast.dump` nor `ast.unparse` will do: Python 3.12 and 3.13 write the same tree
    differently from 3.11, and some parsers leave empty pieces in f-strings.
    """

    def plain(node):
        if isinstance(node, list):
            return [plain(element) for element in node]
        if not isinstance(node, ast.AST):
            return repr(node)
        fields = dict(ast.iter_fields(node))
        if isinstance(node, ast.JoinedStr):
            fields["values"] = [part for part in node.values if getattr(part, "value", None) != ""]
        # Empty fields are left out: Python 3.12 added `type_params` to functions and classes, empty
        # in code that 3.11 reads.
        fields = {name: plain(field) for name, field in fields.items() if field not in (None, [])}
        return [type(node).__name__, fields]

    # A copy, since the transformer edits in place and trees are cached; pickle copies a tree in
    # less than half the time of deepcopy.
    return json.dumps(plain(_Numbers().visit(pickle.loads(pickle.dumps(node)))), sort_keys=True)


class _Numbers(ast.NodeTransformer):
    """Leaves of a tree what can change a number: no docstrings, checks or lines of progress."""

    def visit_Raise(self, node):
        return None

    def visit_Assert(self, node):
        return None

    def visit_Expr(self, node):
        called = node.value.func if isinstance(node.value, ast.Call) else None
        name = getattr(called, "id", getattr(called, "attr", None))
        return None if name in SAID else self.generic_visit(node)

    def visit_Call(self, node):
        # handed on, it cannot be left out; what it is told changes no number
        if getattr(node.func, "id", None) == "Progress":
            return ast.copy_location(ast.Constant("progress"), node)
        return self.generic_visit(node)

    def visit_If(self, node):
        # A check is an `if` around a `raise`: where it passes, nothing has changed.
        node = self.generic_visit(node)
        return node if node.body or node.orelse else None

    def visit_ExceptHandler(self, node):
        return self.generic_visit(node)

    def visit_FunctionDef(self, node):
        node = self._undocumented(node)
        node = self.generic_visit(node)
        node.body = _needed(node.body)
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node):
        return self.generic_visit(self._undocumented(node))

    visit_Module = visit_ClassDef

    @staticmethod
    def _undocumented(node):
        if node.body and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
        return node


def _needed(body: list[ast.stmt]) -> list[ast.stmt]:
    """A function's statements without assignments that only error texts used."""
    # In rounds: what only a dropped assignment has read is unread in the next one.
    while True:
        read = {
            node.id
            for statement in body
            for node in ast.walk(statement)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        }
        left = [statement for statement in body if not _is_unread(statement, read)]
        if len(left) == len(body):
            return left
        body = left


def _is_unread(statement: ast.stmt, read: set[str]) -> bool:
    if not isinstance(statement, ast.Assign):
        return False
    stored = [node for t in statement.targets for node in ast.walk(t) if hasattr(node, "ctx")]
    # To store in an attribute or an element changes an object that others may read.
    plain = all(isinstance(node, ast.Name | ast.Tuple) for node in stored)
    names = {node.id for node in stored if isinstance(node, ast.Name)}
    # what is called _ was assigned for an effect, such as a draw of random numbers
    return plain and bool(names) and not names & read and "_" not in names
