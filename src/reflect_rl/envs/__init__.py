"""Worlds: text observations, enumerated actions, tasks by split. Nothing here knows of models.

- base: `TextEnv`, the contract; simple: `SimpleTextEnv`, the same with the bookkeeping done
- registry: worlds by name; check: what a world of one's own still breaks; adapt: a world from a Gymnasium environment
- taxi (with taxi_table and taxi_teacher): DangerousTaxi
"""
