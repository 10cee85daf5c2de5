// Three hosts write logs; an agent on each sends them; an archive keeps them and an alarm watches them. One agent is killed
// and started again in the middle.
//
//	BOOTSTRAP_SERVERS=127.0.0.1:9092 go run .
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	hosts      = 3
	lines      = 2000
	partitions = 3
	// Every so many lines one is an error.
	errorEvery = 100
)

func main() {
	if err := demo(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func host(i int) string { return fmt.Sprintf("host-%d", i) }

func demo() error {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	brokers := strings.Split(os.Getenv("BOOTSTRAP_SERVERS"), ",")
	run := time.Now().Unix()
	topic := fmt.Sprintf("logs-%d", run)
	if err := createTopic(ctx, brokers, topic); err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "log-aggregation-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	archived := filepath.Join(folder, "archive")
	if err := os.Mkdir(archived, 0o755); err != nil {
		return err
	}

	archive, alarm := NewArchive(archived), &Alarm{Errors: map[string]bool{}}
	var stored, alarms atomic.Int64
	reading, stopReading := context.WithCancel(ctx)
	defer stopReading()
	ended := make(chan error, 2)
	go func() {
		ended <- consume(reading, brokers, topic, fmt.Sprintf("archive-%d", run), func(records []*kgo.Record) error {
			err := archive.Store(records)
			stored.Store(int64(archive.lines))
			return err
		})
	}()
	go func() {
		ended <- consume(reading, brokers, topic, fmt.Sprintf("alarm-%d", run), func(records []*kgo.Record) error {
			err := alarm.Look(records)
			alarms.Store(int64(len(alarm.Errors)))
			return err
		})
	}()
	if err := runHosts(ctx, brokers, topic, folder, &stored, &alarms, ended); err != nil {
		return err
	}
	stopReading()
	if err := errors.Join(<-ended, <-ended); err != nil {
		return err
	}
	return check(folder, archived, archive, alarm)
}

// createTopic keeps logs for a day, whatever reads them: the archive may be down for a night.
func createTopic(ctx context.Context, brokers []string, topic string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return err
	}
	admin := kadm.NewClient(client)
	defer admin.Close()
	_, err = admin.CreateTopic(ctx, partitions, -1, map[string]*string{"retention.ms": kadm.StringPtr("86400000")}, topic)
	return err
}

// runHosts writes the logs with agents at their ends, kills one agent in the middle, and waits until everything is archived.
func runHosts(ctx context.Context, brokers []string, topic, folder string, stored, alarms *atomic.Int64, ended chan error) error {
	following, stop := context.WithCancel(ctx)
	defer stop()
	agents := make(chan error, hosts+1)
	start := func(ctx context.Context, i int) error {
		agent, err := NewAgent(brokers, topic, host(i), logFile(folder, i))
		if err != nil {
			return err
		}
		go func() { agents <- agent.Follow(ctx) }()
		return nil
	}
	doomed, kill := context.WithCancel(following)
	defer kill()
	logs := make([]*os.File, hosts)
	for i := range hosts {
		var err error
		if logs[i], err = os.Create(logFile(folder, i)); err != nil {
			return err
		}
		defer logs[i].Close()
		life := following
		if i == 0 {
			life = doomed
		}
		if err := start(life, i); err != nil {
			return err
		}
	}
	for line := range lines {
		for i := range hosts {
			if _, err := logs[i].WriteString(logLine(i, line)); err != nil {
				return err
			}
		}
		if line == lines/2 {
			// The worst case: everything is sent, and the agent loses where it was, so it begins again.
			if err := until(ctx, ended, func() bool { return stored.Load() == int64(hosts*(line+1)) }); err != nil {
				return err
			}
			kill()
			if err := os.Remove(positionFile(folder, 0)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			if err := errors.Join(<-agents, start(following, 0)); err != nil {
				return err
			}
		}
	}
	all := func() bool { return stored.Load() == hosts*lines && alarms.Load() == hosts*lines/errorEvery }
	if err := until(ctx, ended, all); err != nil {
		return fmt.Errorf("%d of %d lines are archived: %w", stored.Load(), hosts*lines, err)
	}
	stop()
	for range hosts {
		if err := <-agents; err != nil {
			return err
		}
	}
	return nil
}

// until waits for a condition, unless a reader ends first.
func until(ctx context.Context, ended chan error, holds func() bool) error {
	for !holds() {
		select {
		case err := <-ended:
			return fmt.Errorf("a reader ended early: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

func logFile(folder string, i int) string { return filepath.Join(folder, host(i)+".log") }

func positionFile(folder string, i int) string {
	return (&Agent{path: logFile(folder, i)}).positionFile()
}

func logLine(i, line int) string {
	level := "INFO"
	if line%errorEvery == 50 {
		level = "ERROR"
	}
	return fmt.Sprintf("%s %s %s request %d took %d ms\n", time.Now().Format(time.RFC3339Nano), host(i), level, line, line%37)
}

// check compares the archive with what the hosts wrote, byte by byte.
func check(folder, archived string, archive *Archive, alarm *Alarm) error {
	var total int
	for i := range hosts {
		wrote, err := os.ReadFile(logFile(folder, i))
		if err != nil {
			return err
		}
		kept, err := os.ReadFile(filepath.Join(archived, host(i)+".log"))
		if err != nil {
			return err
		}
		if !bytes.Equal(wrote, kept) {
			return fmt.Errorf("%s: the archive differs from what the host wrote", host(i))
		}
		total += len(kept)
	}
	if want := hosts * lines / errorEvery; len(alarm.Errors) != want {
		return fmt.Errorf("%d alarms instead of %d", len(alarm.Errors), want)
	}
	fmt.Printf("proved: the logs of %d hosts (%d lines, %d bytes) are archived byte for byte though an agent died in the middle "+
		"and sent %d lines again; %d errors raised alarms, the last line was %d ms old when it was seen\n",
		hosts, archive.lines, total, archive.Repeats, len(alarm.Errors), alarm.Latest.Milliseconds())
	return nil
}
