"""A GraphDef as nodes that know their readers, with constants, shapes and edits."""
