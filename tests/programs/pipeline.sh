# A pipeline under way: usage pipeline.sh DIRECTORY. It waits for DIRECTORY/go in its middle, so that a test can take it
# with bytes in every pipe; the checksum at its end must be that of an undisturbed run.
cd "$1" || exit 1
{
    cat <<HERE
a here-document of the shell $((6 * 7))
HERE
    yes 'the quick brown fox' | head -c 30000000
    while [ ! -e go ]; do sleep 0.02; done
    seq 1 200000
} | gzip -c -1 | sha256sum > sum.tmp
mv sum.tmp sum
