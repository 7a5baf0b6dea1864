package main

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// systemd tells the service manager how serve is. Without one every method does nothing.
type systemd struct{ log *slog.Logger }

func (s systemd) ready()    { s.tell(daemon.SdNotifyReady) }
func (s systemd) stopping() { s.tell(daemon.SdNotifyStopping) }
func (s systemd) alive()    { s.tell(daemon.SdNotifyWatchdog) }

// reloading comes with the moment, which Type=notify-reload needs to tell this reload from one before.
func (s systemd) reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		s.log.Warn("reading the monotonic clock for systemd", "error", err)
	}
	s.tell(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
}

// watchdog is how long systemd waits to be told that all is well; 0 when it does not.
func (s systemd) watchdog() time.Duration {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		s.log.Warn("systemd's watchdog is not told", "error", err)
	}
	return every
}

func (s systemd) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		s.log.Warn("systemd is not told", "state", state, "error", err)
	}
}
