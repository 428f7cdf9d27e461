import { Component, inject, signal } from "@angular/core";
import { SlimViTService } from "./slimvit.service";

@Component({
  selector: "app-root",
  template: `
    <label>A picture: <input type="file" accept="image/*" (change)="classify($event)" /></label>
    <output>{{ answer() }}</output>
  `,
})
export class App {
  private readonly slimvit = inject(SlimViTService);
  protected readonly answer = signal("");

  protected async classify({ target }: Event): Promise<void> {
    const [file] = (target as HTMLInputElement).files ?? [];
    if (!file) return;
    try {
      const vit = await this.slimvit.model;
      const { classes, latencyMs, engine } = await vit.classify(file);
      this.answer.set(`${classes[0]?.label}, ${Math.round(latencyMs.total)} ms on ${engine}`);
    } catch (error) {
      this.answer.set((error as Error).message);
    }
  }
}
