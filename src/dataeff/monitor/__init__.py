"""A study seen from outside: what it has done (`status`), what an edit would do again (`preview`), whether a site can
run it (`doctor`), and a trial of minutes before its jobs of days (`canary`).
"""
