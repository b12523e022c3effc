#!/usr/bin/zsh -f
# Types lines into an interactive shell on a terminal of its own, presses TAB and Enter after each, and prints what the
# terminal showed. What was run in the end is for the caller to see: the commands of that name write it to $PRESSED.
#
# usage: press-tab.zsh 'COMMAND OF THE SHELL' LINE...
zmodload zsh/zpty zsh/datetime
zpty -b shell "stty rows 50 cols 200 2>/dev/null; exec $1"
shift

# Output has to be taken, or the shell would wait for room.
shown=''
take() { local piece; while zpty -rt shell piece 2>/dev/null; do shown+=$piece; done }
ran() { [[ -s $PRESSED ]] && wc -l <"$PRESSED" || echo 0 }

# until_true SECONDS CONDITION: a slow machine may take long.
until_true() {
    local end=$((EPOCHREALTIME + $1))
    while ! eval $2; do
        take
        ((EPOCHREALTIME < end)) || { print -r -- "$shown"; print "gave up waiting for: $2"; exit 1 }
        sleep 0.02
    done
}

until_true 30 '[[ $shown == *READY* ]]'
count=0
for line; do
    zpty -w -n shell "$line"$'\t'
    sleep 0.05
    zpty -w -n shell $'\n'
    ((++count))
    until_true 30 '(($(ran) >= count))'
done
take
print -r -- "$shown"
zpty -d shell
