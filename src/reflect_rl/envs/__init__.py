"""Worlds: text observations, enumerated actions, tasks by split. Nothing here knows of models.

- base: `TextEnv`, the contract; optional: experts, teachers, stages and panels; simple: `SimpleTextEnv`, with the
  bookkeeping done
- registry: worlds by name; gym: their ids for Gymnasium; bridges: worlds from environments of other libraries
- check: what a world breaks of the contract; checked: the same checks while it is played; promises: what they are
- taxi: DangerousTaxi; alfworld: ALFWorld's text games
"""
