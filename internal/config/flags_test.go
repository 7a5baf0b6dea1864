package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFromFlags(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, name := range []string{"pw", "ca.pem", "id"} {
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	c, err := FromFlags(Flags{
		Cluster: "dcs", Endpoints: []string{"https://h:1"}, Username: "${NOT}", PasswordFile: "pw", TLS: TLS{CA: "ca.pem"}, IdentityFile: "id",
		Stores: []string{"s3://bucket/a/b/?region=r&path_style=true&endpoint=http://127.0.0.1:9000&storage_class=STANDARD_IA&sse=AES256", "file:///mnt/x"}, SpoolDir: "spool",
	})
	if err != nil {
		t.Fatal(err)
	}
	cl, s3 := c.Clusters["dcs"], c.Stores["main"].S3
	if cl.Path != "dcs" || cl.Username != "${NOT}" || string(cl.PasswordFile) != filepath.Join(wd, "pw") || string(c.SpoolDir) != filepath.Join(wd, "spool") ||
		strings.Join(cl.Stores, " ") != "main store2" || cl.SweepAfter.String() != "7d" {
		t.Errorf("cluster %+v", cl)
	}
	if s3.Bucket != "bucket" || s3.Prefix != "a/b" || s3.Region != "r" || !s3.PathStyle || s3.Endpoint != "http://127.0.0.1:9000" || s3.StorageClass != "STANDARD_IA" || s3.SSE != "AES256" {
		t.Errorf("store %+v", s3)
	}
	if c.Stores["store2"].File.Path != "/mnt/x" {
		t.Errorf("store2 %+v", c.Stores["store2"])
	}
	raw, err := c.Sanitized("dcs")
	if err != nil {
		t.Fatal(err)
	}
	out, _, err := FromManifest(raw)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse("requorum.yaml", out, env(nil))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	sameCluster(t, c, again, "dcs")
}

func TestFromFlagsNeedsNoEndpoints(t *testing.T) {
	c, err := FromFlags(Flags{Stores: []string{"s3://b"}})
	if err != nil || c.Clusters["default"] == nil || c.Stores["main"].S3.Prefix != "" || c.SpoolDir == "" {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestFromFlagsNamesFlags(t *testing.T) {
	for _, c := range []struct {
		flags Flags
		want  string
	}{
		{Flags{}, "command line: --store: no store was given"},
		{Flags{Stores: []string{"file:///x"}, Endpoints: []string{"h:1"}}, `command line: --endpoints: "h:1" is no URL`},
		{Flags{Stores: []string{"file:///x"}, Recipients: []string{"nope"}}, `command line: --recipient: recipient "nope"`},
		{Flags{Stores: []string{"file:///x"}, IdentityFile: "gone"}, "command line: --identity-file: there is no file"},
		{Flags{Stores: []string{"s3://b?sse=x"}}, `command line: --store: "x" is no server-side encryption`},
		{Flags{Stores: []string{"s3://b?regoin=x"}}, `the unknown parameter "regoin": did you mean region?`},
		{Flags{Stores: []string{"s3://b?secret_key=abc"}}, "secret_key in a store's URL would be seen in ps"},
		{Flags{Stores: []string{"s3://b?access_key=abc"}}, "access_key in a store's URL would be seen in ps"},
		{Flags{Stores: []string{"s3://key:abc@b"}}, "a store's URL with a user or a key in it"},
		{Flags{Stores: []string{"s3://b?path_style=perhaps"}}, `command line: --store: "perhaps" is not true or false`},
		{Flags{Stores: []string{"s3://b?region=a&region=b"}}, "needs exactly one value"},
		{Flags{Stores: []string{"s3:///x"}}, "names no bucket"},
		{Flags{Stores: []string{"file://x/y"}}, "three slashes"},
		{Flags{Stores: []string{"/mnt/x"}}, "is no store's URL"},
		{Flags{Stores: []string{"file:///x", "file:///x/"}}, "are the same place"},
	} {
		_, err := FromFlags(c.flags)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "abc@") {
			t.Errorf("%+v: got %v, want %s", c.flags, err, c.want)
		}
	}
}

func TestParseStoreURL(t *testing.T) {
	s, err := ParseStoreURL("s3://b/p?profile=x")
	if err != nil || s.S3.Bucket != "b" || s.S3.Profile != "x" || s.Name != "main" {
		t.Errorf("got %+v, %v", s, err)
	}
	if _, err := ParseStoreURL("gs://b"); err == nil {
		t.Error("an unknown scheme is taken")
	}
}
