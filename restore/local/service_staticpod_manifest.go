package local

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// pod is what matters here of a static pod's manifest, in YAML or JSON.
type pod struct {
	Kind     string
	Metadata struct {
		Name   string
		Labels map[string]string
	}
	Spec struct {
		Containers      []container
		SecurityContext securityContext `yaml:"securityContext"`
		Volumes         []struct {
			Name     string
			HostPath *struct{ Path string } `yaml:"hostPath"`
		}
	}
}

type container struct {
	Name, Image   string
	Command, Args []string
	Env           []struct {
		Name  string
		Value *string
	}
	VolumeMounts []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
		SubPath   string `yaml:"subPath"`
	} `yaml:"volumeMounts"`
	SecurityContext securityContext `yaml:"securityContext"`
}

type securityContext struct {
	RunAsUser  *int `yaml:"runAsUser"`
	RunAsGroup *int `yaml:"runAsGroup"`
}

func readPod(path string) (pod, error) {
	var p pod
	data, err := os.ReadFile(path)
	if err != nil {
		return p, err
	}
	if err := yaml.Unmarshal(data, &p); err != nil {
		return p, fmt.Errorf("%s is no manifest: %w", path, err)
	}
	if p.Kind != "Pod" {
		return p, fmt.Errorf("%s is no manifest of a pod, but of kind %q", path, p.Kind)
	}
	return p, nil
}

// argv is the command line as far as the manifest says it.
func (c container) argv() []string {
	argv := append(slices.Clone(c.Command), c.Args...)
	for i := range argv {
		argv[i] = c.expand(argv[i])
	}
	return argv
}

var podVariable = regexp.MustCompile(`\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)`)

// expand replaces variables as the kubelet does; one whose value is not in the manifest stays.
func (c container) expand(text string) string {
	return podVariable.ReplaceAllStringFunc(text, func(v string) string {
		if v == "$$" {
			return "$"
		}
		for _, e := range c.Env {
			if e.Value != nil && "$("+e.Name+")" == v {
				return *e.Value
			}
		}
		return v
	})
}

// program is the name of what the pod runs: what kubeadm calls its component, else the program of its first container.
func (p pod) program() string {
	if component := p.Metadata.Labels["component"]; component != "" || len(p.Spec.Containers) == 0 {
		return component
	}
	if argv := p.Spec.Containers[0].argv(); len(argv) > 0 {
		return filepath.Base(argv[0])
	}
	return ""
}

// runsAs tells whether a process is the pod's first container.
func (p pod) runsAs(argv []string) bool {
	if len(p.Spec.Containers) == 0 || len(argv) == 0 {
		return false
	}
	want := p.Spec.Containers[0].argv()
	if len(want) == 0 || filepath.Base(argv[0]) != filepath.Base(want[0]) || len(argv) != len(want) {
		return false
	}
	for i := range want {
		if argv[i] != want[i] && i > 0 && !podVariable.MatchString(want[i]) {
			return false
		}
	}
	return true
}

// port is where an API server listens.
func (p pod) port() string {
	if len(p.Spec.Containers) > 0 {
		if port := settings(p.Spec.Containers[0].argv(), nil)["secure-port"]; port != "" {
			return port
		}
	}
	return "6443"
}

// etcd is the container that runs etcd, nil if none does.
func (p pod) etcd() *container {
	for i, c := range p.Spec.Containers {
		if argv := c.argv(); len(argv) > 0 && filepath.Base(argv[0]) == "etcd" || len(argv) == 0 && c.Name == "etcd" {
			return &p.Spec.Containers[i]
		}
	}
	for i, c := range p.Spec.Containers {
		if slices.ContainsFunc(c.argv(), func(arg string) bool { return strings.HasPrefix(arg, "--data-dir") }) {
			return &p.Spec.Containers[i]
		}
	}
	return nil
}

// settings are etcd's; complete is false if the manifest does not say the value of one.
func (c container) settings() (set map[string]string, complete bool) {
	var env []string
	complete = true
	for _, e := range c.Env {
		if e.Value != nil {
			env = append(env, e.Name+"="+c.expand(*e.Value))
		} else if strings.HasPrefix(e.Name, "ETCD_") {
			complete = false
		}
	}
	set = settings(c.argv(), env)
	for name, value := range set {
		if podVariable.MatchString(value) {
			delete(set, name)
			complete = false
		}
	}
	return set, complete
}

// host is where a path in the container lies on the machine, empty if nowhere.
func (p pod) host(c *container, path string) string {
	best, found := "", ""
	for _, m := range c.VolumeMounts {
		if !within(path, filepath.Clean(m.MountPath)) || len(m.MountPath) < len(best) {
			continue
		}
		for _, v := range p.Spec.Volumes {
			if v.Name == m.Name {
				best, found = m.MountPath, ""
				if v.HostPath != nil {
					found = filepath.Join(v.HostPath.Path, m.SubPath, strings.TrimPrefix(path, filepath.Clean(m.MountPath)))
				}
			}
		}
	}
	return found
}

var imageTag = regexp.MustCompile(`:v?(\d+\.\d+\.\d+)`)

// version is that of the image's tag, such as registry.k8s.io/etcd:3.5.15-0.
func (c container) version() string {
	if m := imageTag.FindStringSubmatch(c.Image); m != nil {
		return m[1]
	}
	return ""
}

// owner is whom the container runs as.
func (p pod) owner(c *container) *owner {
	var o owner
	for _, s := range []securityContext{p.Spec.SecurityContext, c.SecurityContext} {
		if s.RunAsUser != nil {
			o.uid = *s.RunAsUser
		}
		if s.RunAsGroup != nil {
			o.gid = *s.RunAsGroup
		}
	}
	return &o
}
