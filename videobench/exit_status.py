"""What commands end with. Scripts around them rely on these numbers."""

#: Done.
DONE = 0
#: The work broke off.
BROKE_OFF = 1
#: The configuration or the input is wrong (argparse ends with this number for wrong options, too).
WRONG_INPUT = 2
#: The test met more unreadable videos than TEST.ALLOW_FAILED.
FAILED_VIDEOS = 3
#: Stopped by a signal with everything saved: the same command goes on ("try again later" in sysexits.h).
STOPPED = 75
#: Interrupted from the keyboard.
INTERRUPTED = 130
