#!/bin/sh
# Every test that needs real servers or a browser: three at a time those that wait most of the time, then one after the
# other those that measure. Beside these, what only computes has the processor that they leave: the simulation, whose
# time is virtual, and the counts of calls and bytes. With arguments: pytest with them, once.
if [ $# -gt 0 ]; then exec pytest "$@"; fi
servers="(integration or browser) and not simulation and not long"
log=$(mktemp)

pytest -n 3 --dist loadgroup --durations 25 --durations-min 2 -m "$servers and not alone"
together=$?
nice -n 19 pytest -n 2 --durations 10 --durations-min 2 -m "(simulation or budget) and not integration and not long" \
    > "$log" 2>&1 &
simulation=$!
pytest --durations 25 --durations-min 2 -m "$servers and alone"
alone=$?
wait "$simulation"
simulated=$?
cat "$log"
rm "$log"
exit $((together + alone + simulated))
