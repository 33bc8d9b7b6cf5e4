#!/bin/sh
# A program that goes on, with a child beside it.
sleep 600 &
echo "child $!"
echo "waiting"
wait
